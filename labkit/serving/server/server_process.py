"""One process of tritonserver with its guardian: how it is started, when it is ready, and how it has ended."""

from __future__ import annotations

import contextlib
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
from labkit.serving.server.log_end import end_of_log
from labkit.serving.server.model_processes import ModelProcesses, is_there
from labkit.serving.server.own_folder import OwnFolder, server_in
from labkit.serving.server.probes import Probes
from labkit.serving.server.surroundings import absolute_paths, plain_path

LATE_SECONDS = 5.0
"""That a call may take beyond the time that it was given."""

USUAL_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # between two steps an engine's threads leave their cores to those that send
    **GIVE_BACK,
}
"""Of a server, where the caller's environment says nothing else."""

KNOWN_CAUSES = {
    "SIGFPE": "it does so when a request asks for `classification` of an output of text",
    "SIGSEGV": "it does so when a body is nested, or cut into chunks, millions of times",
    "SIGKILL": "somebody killed it, or the system did for want of memory",
}
"""What is known to end tritonserver 2.51, by the signal that ends it."""


@dataclass(frozen=True)
class Launch:
    """All that a start of tritonserver needs; each start of a server is the same. ports: of HTTP, gRPC and metrics."""

    program: ServerProgram
    repository: Path
    address: str
    ports: Sequence[int]
    folder: OwnFolder
    log: Path

    @property
    def metrics(self) -> str:
        """The address of the server's metrics."""
        return f"{self.address}:{self.ports[2]}"

    def __call__(self) -> subprocess.Popen[bytes]:
        """Start the guardian, which starts the server."""
        regions = f"triton-labkit-{os.getpid()}-{self.ports[1]}-"
        options = {"model-repository": str(self.repository), "model-control-mode": "explicit", "exit-timeout-secs": "5"}
        for service, port in zip(("http", "grpc", "metrics"), self.ports, strict=True):
            options |= {f"{service}-address": self.address, f"{service}-port": str(port)}
        options["grpc-infer-allocation-pool-size"] = "1"  # each keeps the memory of the largest request that it ever held
        options["backend-config"] = f"python,shm-region-prefix-name={regions}"
        guardian = [sys.executable, "-m", "labkit.serving.server.guardian", str(os.getpid()), str(self.folder.path), regions]
        command = [
            *(str(self.program.executable), *self._arguments()),
            *(f"--{name}={value}" for name, value in options.items()),
            "--disable-auto-complete-config",  # for which Triton would start each model's code once more
        ]
        # The guardian runs in this Python, its server in the environment that the program asks for.
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
                process_group=0,  # a Ctrl-C is for the process that started it
                pass_fds=[self.folder.lock],  # the folder is the guardian's too, as long as that runs
            )

    def _arguments(self) -> list[str]:
        """Those of the program, with paths that Triton can use."""
        pairs = [argument.partition("=") for argument in self.program.arguments]
        folder = self.folder.path
        return [name + equals + str(plain_path(Path(value), folder, name.strip("-"))) for name, equals, value in pairs]


class ServerProcess:
    """A tritonserver, from its start on; `end` ends it.

    guardian: the process that looks after it and ends when it has ended.
    """

    def __init__(self, launch: Launch, probes: Probes) -> None:
        self._launch, self._probes = launch, probes
        self._log_began = launch.log.stat().st_size if launch.log.exists() else 0
        self.guardian = launch()

    @property
    def pid(self) -> int:
        """tritonserver's process id; while it is just being started that of the one before, if there was one."""
        return server_in(self._launch.folder.path)

    @property
    def is_running(self) -> bool:
        """Whether the server's process is there; False at once when it has been killed."""
        if self.guardian.poll() is None:
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                return is_there(psutil.Process(self.pid))
        return False

    def wait_until_ready(
        self, models: Sequence[str], until: float, progress: Callable[[str], None], give_up: Callable[[], bool]
    ) -> None:
        """Load the models one after another, until each has answered. Raises `NotAvailable` with the end of the log."""

        def wait(what: Callable[[], bool], otherwise: str, late: float = 0.0) -> None:
            self._wait(what, until + late, otherwise, give_up)

        progress("the server starts")
        wait(self._probes.is_live, "the server did not come up")
        for model in models:
            progress(f"{model} is loaded")
            if not self._probes.is_loaded(model):  # an ensemble loads its steps
                self._load(model, until, wait)
            wait(lambda name=model: self._answers(name), f"{model} is loaded, but does not answer")  # type: ignore[misc]

    def processes(self, models: Sequence[str]) -> ModelProcesses:
        """Those of the models that are loaded now."""
        return ModelProcesses(self.pid, self._launch.repository, models, self._launch.metrics)

    def _answers(self, model: str) -> bool:
        """Whether a model answers; nobody mends one whose process ends while the server is started."""
        if self._probes.answers(model):
            return True
        if self.guardian.poll() is None and self.processes([]).are_missing(model):
            raise NotAvailable(
                f"{model} was loaded, and its process ended before it had answered\n{end_of_log(self._launch.log)}"
            )
        return False

    def _load(self, model: str, until: float, wait: Callable[[Callable[[], bool], str, float], None]) -> None:
        """In a thread, so that who waits can give up; with the server its call ends."""
        loader = ThreadPoolExecutor(1)
        loading = loader.submit(self._probes.load, model, max(1.0, until - time.monotonic()))
        loader.shutdown(wait=False)
        watch = LoadWatch(self.pid)
        wait(lambda: loading.done() or watch.has_lost_one(), f"{model} was not loaded", LATE_SECONDS)
        if not loading.done():
            self.kill()  # it would wait for that process before it ends
            lost = f"the process of {model}, or of a model that it needs, ended as it began"
            raise NotAvailable(f"{lost}\n{end_of_log(self._launch.log)}")
        try:
            loading.result()
        except NotAvailable as error:
            raise NotAvailable(f"{error}\n{end_of_log(self._launch.log)}") from None

    def _wait(self, what: Callable[[], bool], until: float, otherwise: str, give_up: Callable[[], bool]) -> None:
        while not what():
            if give_up():
                raise NotAvailable("told to end before it was ready")
            if self.guardian.poll() is not None:
                raise NotAvailable(f"{self.how_it_ended()}\n{end_of_log(self._launch.log)}")
            if time.monotonic() > until:
                raise NotAvailable(f"{otherwise} in time\n{end_of_log(self._launch.log)}")
            time.sleep(0.02)

    def how_it_ended(self) -> str:
        """In words, with what is known to end tritonserver so; of one that runs, that it does."""
        status = self.guardian.poll()
        if status is None:
            return "tritonserver runs"
        if status < 0:
            return f"tritonserver was ended with its guardian, by {_signal_name(-status)}"
        if status <= SIGNALLED:
            return f"tritonserver ended with status {status}"
        name = _signal_name(status - SIGNALLED)
        return f"tritonserver was ended by {name}" + (f" ({KNOWN_CAUSES[name]})" if name in KNOWN_CAUSES else "")

    def last_words(self) -> str:
        """The last line of the log that tells something; empty if this server wrote none."""
        log = self._launch.log
        return end_of_log(log, 1) if log.exists() and log.stat().st_size > self._log_began else ""

    def kill(self) -> None:
        """End the server at once; the guardian clears away what it leaves."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            server = psutil.Process(self.pid)
            if server.ppid() == self.guardian.pid:
                server.kill()

    def end(self) -> None:
        """End the server and its guardian, and wait for them; again does nothing."""
        self.guardian.terminate()
        self.guardian.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
