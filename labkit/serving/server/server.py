"""A Triton Inference Server: started on loopback, ready when it has answered, kept running, and gone with all it left."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit.errors import InvalidRequest
from labkit.forked import by_owner
from labkit.serving.probe_mark import mark_of
from labkit.serving.repository.checker.repository_check import MISSING_CODE, check_repository
from labkit.serving.run_folder import run_folder
from labkit.serving.server.install import ServerProgram, need_server
from labkit.serving.server.own_folder import OwnFolder, server_in, sweep
from labkit.serving.server.probes import Probes
from labkit.serving.server.server_process import Launch
from labkit.serving.server.supervisor import Restart, Supervisor
from labkit.serving.server.surroundings import is_plain, plain_path
from labkit.serving.server.watchdog import Watchdog


class Server:
    """A running server over a model repository; a context manager.

    repository: the folder. models: those to load, one after another; all of the repository's if left out. http_port,
    grpc_port, metrics_port: free ones if left out. address: what it listens on. watch: look every few seconds whether each
    model answers, and load one anew that does not (`watchdog`); start tritonserver again when it has ended by itself
    (`restarts`). log: where the server's and the models' output goes, a temporary file if left out. program: what to start;
    `need_server()` if left out. progress: told in words what is being waited for, and later, in another thread, how a
    tritonserver has ended. give_up: asked while it waits for the start; true ends it. start_seconds: until every model has
    answered.

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
        sweep()
        folder = OwnFolder("server")
        self.probes = Probes(self.grpc, lambda: mark_of(run_folder(server_in(folder.path))))
        self.log = log or folder.path / "log.txt"
        try:
            served = plain_path(self.repository, folder.path, "repository")
            launch = Launch(program, served, address, ports, folder, self.log)
            self._supervisor = Supervisor(launch, self.probes, self.models, progress)
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
        """Whether the server's process is there; False at once when it has been killed, and True when it runs again."""
        return self._supervisor.process.is_running

    @property
    def failure(self) -> str:
        """Why a server that has ended is not started again; empty as long as nobody has given up."""
        return self._supervisor.failure

    @property
    def restarts(self) -> Sequence[Restart]:
        """The times that tritonserver ended and was started again; the newest is the last."""
        return self._supervisor.restarts

    @property
    def watchdog(self) -> Watchdog | None:
        """What loads models anew; None where nobody watches."""
        return self._supervisor.watchdog

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The guardian of the tritonserver that runs now: it ends when that has ended."""
        return self._supervisor.process.guardian

    @property
    def pid(self) -> int:
        """tritonserver's process id."""
        return self._supervisor.process.pid

    def stop(self) -> None:
        """End it, its models' processes, and what they left in shared memory; again does nothing."""
        self._end()
        if self.watchdog:
            self.watchdog.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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
