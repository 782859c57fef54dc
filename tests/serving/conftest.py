"""Fixtures: a real Triton Inference Server, if one is installed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.serving.channels import open_url
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import server as serving
from labkit.serving.server.install import ServerProgram, find_server
from tests.patience import PATIENCE

MODEL_CODE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        import json
        self.outputs = json.loads(args["model_config"])["output"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        return pb_utils.InferenceResponse([self.zeros(output) for output in self.outputs])

    def zeros(self, output):
        shape = [1] + [max(1, int(dim)) for dim in output["dims"]]
        dtype = pb_utils.triton_string_to_numpy(output["data_type"])
        return pb_utils.Tensor(output["name"], np.full(shape, b"") if dtype is np.object_ else np.zeros(shape, dtype))
"""
"""The code of a model that answers every request with zeros."""


HANG_SECONDS = 30.0
"""After this time, a load counts as hanging. A load takes two seconds, but occasionally a load never ends, and from then on the
server does not answer any request.
"""


class Server:
    """A server that starts without models. `load` loads a model and returns the server's error, if there is one."""

    def __init__(self, program: ServerProgram, folder: Path) -> None:
        self.repository = folder / "repository"
        self.repository.mkdir()
        self.log = folder / "log"
        self._program = program
        self._begin()

    def _begin(self) -> None:
        self.ports = free_ports(3)
        self._process = self._start(self._program)
        self._wait_until_ready()

    def _start(self, program: ServerProgram) -> subprocess.Popen[bytes]:
        http, grpc, metrics = self.ports
        command = [
            *(str(program.executable), *program.arguments),
            f"--model-repository={self.repository}",
            *(f"--{service}-address=127.0.0.1" for service in ("http", "grpc", "metrics")),
            *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
            *("--model-control-mode=explicit", "--exit-timeout-secs=5"),
        ]
        environment = os.environ | program.environment
        with self.log.open("wb") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.ask("v2/health/ready")
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(self.log.read_text())

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=PATIENCE)

    def kill(self) -> None:
        """Kills the server and the processes of its models."""
        family = psutil.Process(self._process.pid)
        for process in [*family.children(recursive=True), family]:
            process.kill()
        self._process.wait(timeout=PATIENCE)

    def ask(self, path: str, body: dict[str, Any] | None = None, timeout: float = PATIENCE) -> bytes:
        """The answer to a GET request, or to a POST request with `body` as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[0]}/{path}", data=data)
        with open_url(request, timeout=timeout) as answer:
            return bytes(answer.read())

    def put(self, name: str, config: str, code: str = MODEL_CODE) -> None:
        """Writes the folder of a model. A folder with the same name is replaced."""
        version = self.repository / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version / "model.py").write_text(code)
        (version.parent / "config.pbtxt").write_text(config)

    def load(self, name: str) -> str:
        """Loads a model. Returns the server's error, or an empty text. If the server hangs, it is restarted once."""
        path = f"v2/repository/models/{name}/load"
        try:
            return self.try_to(path, {}, timeout=HANG_SECONDS)
        except TimeoutError:
            self._begin_anew(path)
        return self.try_to(path, {}, timeout=PATIENCE)

    def unload(self, name: str) -> None:
        """Unloads a model, and the models of which it consists if it is an ensemble."""
        path = f"v2/repository/models/{name}/unload"
        try:
            self.try_to(path, {"parameters": {"unload_dependents": True}}, timeout=HANG_SECONDS)
        except TimeoutError:
            self._begin_anew(path)

    def complaint(self, name: str) -> str:
        """Loads and unloads a model. Returns the server's error about it, or an empty text."""
        found = self.load(name)
        self.unload(name)
        return found

    def _begin_anew(self, path: str) -> None:
        last = self.log.read_text(errors="replace")[-2000:]
        words = f"tritonserver hung in {path} for {HANG_SECONDS:.0f} s and was started again; its log:\n{last}"
        warnings.warn(words, stacklevel=3)
        self.kill()
        self._begin()

    def try_to(self, path: str, body: dict[str, Any], answer: list[str] | None = None, timeout: float = PATIENCE) -> str:
        """Sends a request. Returns the server's error, or an empty text after appending the server's answer to `answer`."""
        try:
            answered = self.ask(path, body, timeout)
        except urllib.error.HTTPError as error:
            return error.read().decode()
        if answer is not None:
            answer.append(answered.decode())
        return ""


def free_ports(count: int) -> list[int]:
    """Ports on loopback that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@pytest.fixture(scope="session")
def server_program() -> ServerProgram:
    """The server that `find_server` finds."""
    program = find_server()
    if program is None:
        pytest.skip("not measured here: no tritonserver")
    return program


@pytest.fixture(scope="session")
def tritonserver(server_program: ServerProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server that all tests share."""
    server = Server(server_program, tmp_path_factory.mktemp("triton"))
    yield server
    server.stop()


@pytest.fixture
def own_tritonserver(server_program: ServerProgram, tmp_path: Path) -> Iterator[Server]:
    """A running server for one test. The test may damage it, because it is killed afterwards."""
    folder = tmp_path / "triton"
    folder.mkdir()
    server = Server(server_program, folder)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def gptj_server(server_program: ServerProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    """A server that all tests share, with `gptj` serving the built-in model. It runs 16 requests at a time and lets 4 wait."""
    folder = tmp_path_factory.mktemp("repository")
    write_repository(folder, ServeSettings(max_batch=16, max_queue=4))
    with serving.Server(folder, models=["gptj"], program=server_program) as server:
        yield server
