"""Starts one tritonserver process with its guardian, waits until it is ready, and says how it ended."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from labkit.errors import NotAvailable
from labkit.serving.access import make_secret
from labkit.serving.malloc import GIVE_BACK
from labkit.serving.server.guardian import SIGNALLED
from labkit.serving.server.install import ServerProgram
from labkit.serving.server.load_watch import LoadWatch
from labkit.serving.server.locked_folder import LockedFolder
from labkit.serving.server.log_end import end_of_log
from labkit.serving.server.model_processes import ModelProcesses, is_alive
from labkit.serving.server.probes import Probes
from labkit.serving.server.server_folder import read_server_pid
from labkit.serving.server.shell_paths import absolute_paths, shell_safe_path

LATE_SECONDS = 5.0
"""Seconds that a call may take after its time limit has passed."""

USUAL_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # between two steps, an engine's threads free their cores for the threads that send responses
    **GIVE_BACK,
}
"""Environment variables of a server, unless the caller's environment sets them."""

KNOWN_CAUSES = {
    "SIGFPE": "this happens when a request asks for `classification` of an output of text",
    "SIGSEGV": "this happens when a body is nested, or cut into chunks, millions of times",
    "SIGKILL": "somebody killed the server, or the system killed it because memory was short",
}
"""Known causes of a crash of tritonserver 2.51, by the signal that ends it."""


@dataclass(frozen=True)
class StartSettings:
    """The settings with which tritonserver is started; every restart uses the same settings.

    ports: the ports for HTTP, gRPC and metrics, in this order. drain_seconds: how long the server may finish its requests
    before it ends.
    """

    program: ServerProgram
    repository: Path
    address: str
    ports: Sequence[int]
    folder: LockedFolder
    log: Path
    drain_seconds: float

    @property
    def metrics(self) -> str:
        """HOST:PORT of the server's metrics."""
        return f"{self.address}:{self.ports[2]}"

    def start_guardian(self) -> subprocess.Popen[bytes]:
        """Start the guardian, which starts tritonserver."""
        regions = f"triton-labkit-{os.getpid()}-{self.ports[1]}-"
        options = {"model-repository": str(self.repository), "model-control-mode": "explicit"}
        options["exit-timeout-secs"] = str(math.ceil(self.drain_seconds))
        for service, port in zip(("http", "grpc", "metrics"), self.ports, strict=True):
            options |= {f"{service}-address": self.address, f"{service}-port": str(port)}
        # The pool is small, because an allocation in the pool grows to the largest request that it has held, and never shrinks.
        options["grpc-infer-allocation-pool-size"] = "1"
        options["backend-config"] = f"python,shm-region-prefix-name={regions}"
        guardian = [sys.executable, "-m", "labkit.serving.server.guardian", str(os.getpid()), str(self.folder.path), regions]
        guardian.append(str(self.drain_seconds))
        command = [
            *(str(self.program.executable), *self._arguments()),
            *(f"--{name}={value}" for name, value in options.items()),
            "--disable-auto-complete-config",  # without this, Triton would start each model's code twice
        ]
        # The guardian runs with this Python; only tritonserver gets the environment that the program needs.
        usual = {name: value for name, value in USUAL_ENVIRONMENT.items() if name not in os.environ}
        setting = [f"{name}={value}" for name, value in (usual | self.program.environment).items()]
        make_secret(self.folder.path, [f"{self.address}:{port}" for port in self.ports])
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [*guardian, *setting, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder.path,
                env=os.environ | absolute_paths(os.environ),
                process_group=0,  # A Ctrl-C must reach only the process that started the server.
                pass_fds=[self.folder.lock],  # The guardian holds the folder's lock too.
            )

    def _arguments(self) -> list[str]:
        """The arguments of the program, with paths that Triton can use."""
        pairs = [argument.partition("=") for argument in self.program.arguments]
        folder = self.folder.path
        return [name + equals + str(shell_safe_path(Path(value), folder, name.strip("-"))) for name, equals, value in pairs]


class ServerProcess:
    """A tritonserver process, which the constructor starts and `end` ends.

    guardian: the process that watches tritonserver, and ends after it.
    """

    def __init__(self, start: StartSettings, probes: Probes) -> None:
        self._start, self._probes = start, probes
        self._log_began = start.log.stat().st_size if start.log.exists() else 0
        self.guardian = start.start_guardian()

    @property
    def pid(self) -> int:
        """The process id of tritonserver. During a restart this is still the id of the previous tritonserver."""
        return read_server_pid(self._start.folder.path)

    @property
    def is_running(self) -> bool:
        """Whether the server's process exists; False as soon as it has ended."""
        if self.guardian.poll() is None:
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                return is_alive(psutil.Process(self.pid))
        return False

    def wait_until_ready(
        self, models: Sequence[str], until: float, progress: Callable[[str], None], give_up: Callable[[], bool]
    ) -> None:
        """Load the models one after another, and wait until each has answered.

        until: a time limit on the clock `time.monotonic`. Raises `NotAvailable` with the end of the log if the server or a
        model does not start.
        """

        def wait(what: Callable[[], bool], otherwise: str, late: float = 0.0) -> None:
            self._wait(what, until + late, otherwise, give_up)

        progress("the server is starting")
        wait(self._probes.is_live, "the server did not come up")
        for model in models:
            progress(f"{model} is being loaded")
            if not self._probes.is_loaded(model):  # an ensemble loads its steps
                self._load(model, until, wait)
            wait(lambda name=model: self._answers(name), f"{model} is loaded, but does not answer")  # type: ignore[misc]

    def processes(self, models: Sequence[str]) -> ModelProcesses:
        """The processes that run these models now."""
        return ModelProcesses(self.pid, self._start.repository, models, self._start.metrics)

    def _answers(self, model: str) -> bool:
        """Whether a model answers a request while the server starts.

        Raises `NotAvailable` if the model's process has ended: during a start nothing reloads a model.
        """
        if self._probes.answers(model, is_starting=True):
            return True
        if self.guardian.poll() is None and self.processes([]).are_missing(model):
            raise NotAvailable(
                f"{model} was loaded, and its process ended before it had answered\n{end_of_log(self._start.log)}"
            )
        return False

    def _load(self, model: str, until: float, wait: Callable[[Callable[[], bool], str, float], None]) -> None:
        """Load a model in another thread, so that this thread can give up waiting. If the server ends, the loading ends too."""
        loader = ThreadPoolExecutor(1)
        loading = loader.submit(self._probes.load, model, max(1.0, until - time.monotonic()))
        loader.shutdown(wait=False)
        watch = LoadWatch(self.pid)
        wait(lambda: loading.done() or watch.has_lost_one(), f"{model} was not loaded", LATE_SECONDS)
        if not loading.done():
            self.kill()  # a server that is asked to end would wait for the process that was lost
            lost = f"the process of {model}, or of a model that it needs, ended as it began"
            raise NotAvailable(f"{lost}\n{end_of_log(self._start.log)}")
        try:
            loading.result()
        except NotAvailable as error:
            raise NotAvailable(f"{error}\n{end_of_log(self._start.log)}") from None

    def _wait(self, what: Callable[[], bool], until: float, otherwise: str, give_up: Callable[[], bool]) -> None:
        while not what():
            if give_up():
                raise NotAvailable("the start was cancelled before the server was ready")
            if self.guardian.poll() is not None:
                raise NotAvailable(f"{self.how_it_ended()}\n{end_of_log(self._start.log)}")
            if time.monotonic() > until:
                raise NotAvailable(f"{otherwise} in time\n{end_of_log(self._start.log)}")
            time.sleep(0.02)

    def how_it_ended(self) -> str:
        """A text that says how tritonserver ended and the likely cause, or that it is still running."""
        status = self.guardian.poll()
        if status is None:
            return "tritonserver is running"
        if status < 0:
            return f"tritonserver was ended with its guardian, by {_signal_name(-status)}"
        if status <= SIGNALLED:
            return f"tritonserver ended with status {status}"
        name = _signal_name(status - SIGNALLED)
        return f"tritonserver was ended by {name}" + (f" ({KNOWN_CAUSES[name]})" if name in KNOWN_CAUSES else "")

    def last_words(self) -> str:
        """The last interesting line of the log; empty if this server wrote none."""
        log = self._start.log
        return end_of_log(log, 1) if log.exists() and log.stat().st_size > self._log_began else ""

    def kill(self) -> None:
        """Kill the server. The guardian deletes what the server leaves behind."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            server = psutil.Process(self.pid)
            if server.ppid() == self.guardian.pid:
                server.kill()

    def end(self) -> None:
        """End the server and its guardian, and wait for both. A second call does nothing.

        The server first finishes its requests, for at most `drain_seconds`. If the guardian gets a second SIGTERM, it does not
        wait any longer.
        """
        self.guardian.terminate()
        self.guardian.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
