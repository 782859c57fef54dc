"""The process of a Triton Inference Server: started on loopback, ready when it has answered, and gone with all it left."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving.access import make_secret, withdraw_secret
from labkit.serving.install import ServerProgram, need_server
from labkit.serving.load_watch import LoadWatch
from labkit.serving.malloc import GIVE_BACK
from labkit.serving.model_processes import ModelProcesses, is_there
from labkit.serving.private_folder import private_folder
from labkit.serving.probe_mark import mark_of
from labkit.serving.probes import Probes
from labkit.serving.run_folder import run_folder
from labkit.serving.surroundings import absolute_paths, is_plain, plain_path
from labkit.serving.validator.repository_check import MISSING_CODE, check_repository
from labkit.serving.watchdog import Watchdog

LOG_LINES = 40
LATE_SECONDS = 5.0
"""That a call may take beyond the time that it was given."""

USUAL_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # between two steps an engine's threads leave their cores to those that send
    **GIVE_BACK,
}
"""Of a server, where the caller's environment says nothing else."""


class Server:
    """A running server over a model repository; a context manager.

    repository: the folder. models: those to load, one after another; all of the repository's if left out. http_port,
    grpc_port, metrics_port: free ones if left out. address: what it listens on. watch: look every few seconds whether each
    model answers, and load one anew that does not (`watchdog`). log: where the server's and the models' output goes, a
    temporary file if left out. program: what to start; `need_server()` if left out. progress: told in words what is being
    waited for. give_up: asked while it waits for the start; true ends it. start_seconds: until every model has answered.

    When it is made every model has answered a real request. It ends with `stop`, with the block, when it is forgotten, and
    with this process, however that ends. Raises `InvalidRequest` for a repository without models, a model without
    code, or a port that is taken, `NotAvailable` with the end of the log when the server or a model does not start.
    """

    def __init__(
        self,
        repository: Path | str,
        *,
        models: Sequence[str] | None = None,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        address: str = "127.0.0.1",
        watch: bool = True,
        log: Path | None = None,
        program: ServerProgram | None = None,
        progress: Callable[[str], None] = lambda words: None,
        give_up: Callable[[], bool] = lambda: False,
        start_seconds: float = 600.0,
    ) -> None:
        self.repository = Path(repository).resolve()
        self.models = list(models) if models is not None else models_in(self.repository)
        check_code(self.repository, self.models)
        program = program or need_server()
        ports = free_ports(address, http_port, grpc_port, metrics_port)
        self.http, self.grpc, self.metrics = (f"{address}:{port}" for port in ports)
        self._folder = Path(tempfile.mkdtemp(prefix="server-", dir=private_folder()))
        self.log = log or self._folder / "log.txt"
        self.watchdog: Watchdog | None = None
        self._give_up = give_up
        watchdogs: list[Watchdog] = []
        try:
            make_secret(self._folder, [self.http, self.grpc, self.metrics])
            self._served = plain_path(self.repository, self._folder, "repository")
            self.process = self._launch(program, address, ports)
        except BaseException:
            withdraw_secret(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._end = weakref.finalize(self, _end, self.process, self._folder, watchdogs)
        try:
            self.probes = Probes(self.grpc, lambda: mark_of(run_folder(self.pid)))
            self._start(time.monotonic() + start_seconds, progress)
        except BaseException:
            self.stop()
            raise
        if watch and self.models:
            processes = ModelProcesses(self.pid, self._served, self.models)
            self.watchdog = Watchdog(self.probes, self.models, processes)
            watchdogs.append(self.watchdog)

    @property
    def is_running(self) -> bool:
        """Whether the server's process is there; False at once when it has been killed."""
        return self.process.poll() is None and self._is_there()

    def _is_there(self) -> bool:
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            return is_there(psutil.Process(self.pid))
        return False

    @property
    def pid(self) -> int:
        """tritonserver's process id."""
        return int((self._folder / "pid").read_text())

    def stop(self) -> None:
        """End it, its models' processes, and what they left in shared memory; again does nothing."""
        self._end()
        if self.watchdog:
            self.watchdog.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self, program: ServerProgram, address: str, ports: Sequence[int]) -> subprocess.Popen[bytes]:
        regions = f"triton-labkit-{os.getpid()}-{ports[1]}-"
        options = {"model-repository": str(self._served), "model-control-mode": "explicit", "exit-timeout-secs": "5"}
        for service, port in zip(("http", "grpc", "metrics"), ports, strict=True):
            options |= {f"{service}-address": address, f"{service}-port": str(port)}
        options["grpc-infer-allocation-pool-size"] = "1"  # each keeps the memory of the largest request that it ever held
        options["backend-config"] = f"python,shm-region-prefix-name={regions}"
        guardian = [sys.executable, "-m", "labkit.serving.guardian", str(os.getpid()), str(self._folder), regions]
        command = [
            str(program.executable),
            *self._arguments(program),
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        command.append("--disable-auto-complete-config")  # for which Triton would start each model's code once more
        # The guardian runs in this Python, its server in the environment that the program asks for.
        usual = {name: value for name, value in USUAL_ENVIRONMENT.items() if name not in os.environ}
        setting = [f"{name}={value}" for name, value in (usual | program.environment).items()]
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [*guardian, *setting, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=os.environ | absolute_paths(os.environ),
                process_group=0,  # a Ctrl-C is for the process that started it
            )

    def _arguments(self, program: ServerProgram) -> list[str]:
        """Those of the program, with paths that Triton can use."""
        pairs = [argument.partition("=") for argument in program.arguments]
        return [name + equals + str(plain_path(Path(value), self._folder, name.strip("-"))) for name, equals, value in pairs]

    def _start(self, until: float, progress: Callable[[str], None]) -> None:
        progress("the server starts")
        self._wait(self.probes.is_live, until, "the server did not come up")
        for model in self.models:
            progress(f"{model} is loaded")
            if not self.probes.is_loaded(model):  # an ensemble loads its steps
                self._load(model, until)
            self._wait(lambda name=model: self.probes.answers(name), until, f"{model} is loaded, but does not answer")  # type: ignore[misc]

    def _load(self, model: str, until: float) -> None:
        """In a thread, so that who waits can give up; with the server its call ends."""
        loader = ThreadPoolExecutor(1)
        loading = loader.submit(self.probes.load, model, max(1.0, until - time.monotonic()))
        loader.shutdown(wait=False)
        watch = LoadWatch(self.pid)
        self._wait(lambda: loading.done() or watch.has_lost_one(), until + LATE_SECONDS, f"{model} was not loaded")
        if not loading.done():
            psutil.Process(self.pid).kill()  # it would wait for that process before it ends
            lost = f"the process of {model}, or of a model that it needs, ended as it began"
            raise NotAvailable(f"{lost}\n{self._end_of_log()}")
        try:
            loading.result()
        except NotAvailable as error:
            raise NotAvailable(f"{error}\n{self._end_of_log()}") from None

    def _wait(self, what: Callable[[], bool], until: float, otherwise: str) -> None:
        while not what():
            if self._give_up():
                raise NotAvailable("told to end before it was ready")
            if self.process.poll() is not None:
                raise NotAvailable(f"tritonserver ended with status {self.process.returncode}\n{self._end_of_log()}")
            if time.monotonic() > until:
                raise NotAvailable(f"{otherwise} in time\n{self._end_of_log()}")
            time.sleep(0.02)

    def _end_of_log(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if line.strip() and not line.startswith(("+--", "|"))][-LOG_LINES:])


def models_in(repository: Path) -> list[str]:
    """The models of a repository in the order in which they are loaded: the engine, ensembles (which load their steps), others.

    Raises `InvalidRequest` where there are none."""
    configs = {config.parent.name: config.read_text() for config in repository.glob("*/config.pbtxt")}
    if not configs:
        raise InvalidRequest(f"{repository} holds no */config.pbtxt; give a model repository")
    return sorted(configs, key=lambda name: (name != "gptj", "ensemble_scheduling" not in configs[name], name))


def check_code(repository: Path, models: Sequence[str]) -> None:
    """Raise `InvalidRequest` where a model has no folder or no code: the server would wait for the code for ever."""
    for model in models:
        if not (repository / model / "config.pbtxt").is_file():
            raise InvalidRequest(f"{repository} has no model {model}: there is no {model}/config.pbtxt")
        if not is_plain(model) and any((repository / model).glob("*/model.py")):
            raise InvalidRequest(
                f"Triton cannot start the Python model {model!r} of {repository}; its name may have letters, digits, "
                "'_', '-' and '.': rename its folder, and the name in its config.pbtxt"
            )
    for fault in check_repository(repository):
        if fault.what == MISSING_CODE and Path(fault.file).parts[0] in models:
            raise InvalidRequest(f"{repository}: {fault}")


def free_ports(address: str, *wanted: int) -> list[int]:
    """The wanted ports, and a free one for each 0. Raises `InvalidRequest` for one that is taken."""
    with contextlib.ExitStack() as held:
        ports = []
        for port in wanted:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that a server had a moment ago is free
            try:
                probe.bind((address, port))
            except (OSError, OverflowError) as error:
                raise InvalidRequest(f"port {port} on {address} cannot be had ({error}); give another, or 0 for any") from None
            ports.append(probe.getsockname()[1])
        return ports


def _end(guardian: subprocess.Popen[bytes], folder: Path, watchdogs: Sequence[Watchdog]) -> None:
    for watchdog in watchdogs:
        watchdog.end()
    guardian.terminate()
    guardian.wait()
    withdraw_secret(folder)
    shutil.rmtree(folder, ignore_errors=True)
