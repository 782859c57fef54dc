"""Starts a Triton Inference Server, waits until its models answer, keeps it running, and removes all traces at the end."""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit.errors import InvalidRequest
from labkit.forked import by_owner
from labkit.serving.probe_mark import mark_of
from labkit.serving.repository.checker.check_repository import MISSING_CODE, check_repository
from labkit.serving.server.install import ServerProgram, need_server
from labkit.serving.server.locked_folder import LockedFolder, sweep
from labkit.serving.server.probes import Probes
from labkit.serving.server.server_folder import read_server_pid
from labkit.serving.server.server_process import StartSettings
from labkit.serving.server.shell_paths import is_shell_safe, shell_safe_path
from labkit.serving.server.supervisor import Restart, Supervisor
from labkit.serving.server.watchdog import Watchdog
from labkit.serving.shared_folder import shared_folder


class Server:
    """A running server for a model repository; also a context manager.

    repository: the folder of the model repository. models: the models to load, one after another; all models of the repository
    if left out. http_port, grpc_port, metrics_port: free ports if left out. address: the address to listen on. watch: check
    every few seconds whether each model answers, reload models that do not answer (see `watchdog`), and restart tritonserver if
    it ends by itself (see `restarts`). log: the file for the output of the server and its models; if left out, a temporary
    file that is deleted with the server. program: the server to start; `need_server()` if left out. progress: called with a
    text that says what is being waited for; later it is called from another thread when a tritonserver has ended. give_up:
    called while waiting for the start; if it returns True, the start is abandoned. start_seconds: the time within which every
    model must have answered, at this start and after a restart; also the time limit for reloading one model. drain_seconds: how
    long the server may finish its requests when it is ended; new requests are refused then.

    After construction every model has answered a real request. The server ends with `stop`, at the end of the `with` block,
    when the object is garbage-collected, and whenever this process ends. Raises `InvalidRequest` for a repository without
    models, a model without code, or a port that is in use. Raises `NotAvailable` with the end of the log if the server or a
    model does not start.
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
        drain_seconds: float = 5.0,
    ) -> None:
        if not 0 <= drain_seconds < math.inf:
            raise InvalidRequest(f"drain_seconds is {drain_seconds!r}; a finite number of at least 0 is accepted")
        self.repository = Path(repository).resolve()
        self.models = list(models) if models is not None else models_in(self.repository)
        check_code(self.repository, self.models)
        program = program or need_server()
        ports = free_ports(address, http_port, grpc_port, metrics_port)
        self.http, self.grpc, self.metrics = (f"{address}:{port}" for port in ports)
        sweep()
        folder = LockedFolder("server")
        self.probes = Probes(
            self.grpc, self.metrics, lambda: mark_of(shared_folder(read_server_pid(folder.path))), start_seconds
        )
        self.log = log or folder.path / "log.txt"
        try:
            served = shell_safe_path(self.repository, folder.path, "repository")
            start = StartSettings(program, served, address, ports, folder, self.log, drain_seconds)
            self._supervisor = Supervisor(start, self.probes, self.models, progress)
        except BaseException:
            folder.delete()
            raise
        self._end = weakref.finalize(self, by_owner(self._supervisor.end))
        try:
            self._supervisor.ready(start_seconds, give_up, watch=watch)
        except BaseException:
            self.stop()
            raise

    @property
    def is_running(self) -> bool:
        """Whether the server's process exists: False as soon as it has ended, and True again after a restart."""
        return self._supervisor.process.is_running

    @property
    def failure(self) -> str:
        """Why an ended server is no longer restarted; empty while restarts are still tried."""
        return self._supervisor.failure

    @property
    def restarts(self) -> Sequence[Restart]:
        """The restarts of tritonserver after it had ended; the newest is last."""
        return self._supervisor.restarts

    @property
    def watchdog(self) -> Watchdog | None:
        """The thread that reloads models; None if the server is not watched."""
        return self._supervisor.watchdog

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The guardian of the current tritonserver; it ends when tritonserver has ended."""
        return self._supervisor.process.guardian

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        return self._supervisor.process.pid

    def hurry(self) -> None:
        """Let a server that is being stopped end at once. Call this from another thread or a signal handler."""
        self.process.terminate()

    def stop(self) -> None:
        """End the server and its models' processes, and delete their shared memory. A second call does nothing."""
        self._end()
        if self.watchdog:
            self.watchdog.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def models_in(repository: Path) -> list[str]:
    """The models of a repository in loading order: the engine's model, then ensembles (which load their steps), then the other
    models.

    Raises `InvalidRequest` if the repository has no models.
    """
    configs = {config.parent.name: config.read_text() for config in repository.glob("*/config.pbtxt")}
    if not configs:
        raise InvalidRequest(f"{repository} holds no */config.pbtxt; give a model repository")
    return sorted(configs, key=lambda name: (name != "gptj", "ensemble_scheduling" not in configs[name], name))


def check_code(repository: Path, models: Sequence[str]) -> None:
    """Raise `InvalidRequest` if a model has no folder or no code. The server would wait for missing code forever."""
    for model in models:
        if not (repository / model / "config.pbtxt").is_file():
            raise InvalidRequest(f"{repository} has no model {model}: there is no {model}/config.pbtxt")
        if not is_shell_safe(model) and any((repository / model).glob("*/model.py")):
            raise InvalidRequest(
                f"Triton cannot start the Python model {model!r} of {repository}; its name may have letters, digits, "
                "'_', '-' and '.': rename its folder, and the name in its config.pbtxt"
            )
    for fault in check_repository(repository):
        if fault.what == MISSING_CODE and Path(fault.file).parts[0] in models:
            raise InvalidRequest(f"{repository}: {fault}")


def free_ports(address: str, *wanted: int) -> list[int]:
    """The wanted ports, with a free port in place of each 0. Raises `InvalidRequest` for a port that is in use."""
    with contextlib.ExitStack() as held:
        ports = []
        for port in wanted:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that a server used a moment ago counts as free
            try:
                probe.bind((address, port))
            except (OSError, OverflowError) as error:
                raise InvalidRequest(
                    f"port {port} on {address} is not available ({error}); give another port, or 0 for any free port"
                ) from None
            ports.append(probe.getsockname()[1])
        return ports
