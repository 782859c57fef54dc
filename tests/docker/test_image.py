"""The learner's image: an ordinary user starts it with and without a network, and a client uses it over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from labkit.serving.channels import open_url
from tests.docker.image import DOCKERFILE, ROOT, Container, built_container, can_build, output
from tests.patience import PATIENCE

BUSY = "sealing memfd copy: Device or resource busy"
"""buildah sometimes fails with this message when it restarts itself, before the image runs: then the command is repeated."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(4500),  # one test builds the image, runs a whole lab in it, and removes the image
    pytest.mark.skipif(not can_build(), reason="not measured here: no image builder (buildah and debootstrap)"),
]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with built_container() as made:
        yield made


# A running JupyterLab -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Server:
    """JupyterLab in the container: its port on loopback and its token."""

    port: int
    token: str

    def ask(self, path: str, *, method: str = "GET", body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Send a request. Return the status and the JSON (or text) of the answer. `token=""` sends no token."""
        token = self.token if token is None else token
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"token {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers, method=method)
        try:
            with open_url(request, timeout=PATIENCE) as answer:
                text = answer.read().decode()
                status = answer.status
        except HTTPError as error:
            text, status = error.read().decode(), error.code
        return status, json.loads(text) if text.startswith(("{", "[")) else text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def begun(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a process of JupyterLab and wait until it answers; return the process and its token."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    return process, wait_for_token(process, log)


@contextmanager
def running(container: Container, log: Path, port: int | None = None) -> Iterator[Server]:
    """Start JupyterLab with the image's own command. At the end, ask it to stop, and kill it if it does not."""
    port = port or free_port()
    command = container.command(*container.start, "--port", str(port))
    process, token = begun(command, log)
    if not token and BUSY in log.read_text():
        process, token = begun(command, log)
    try:
        assert token, f"JupyterLab does not answer; it said\n{log.read_text()[-3000:]}"
        server = Server(port, token)
        yield server
        server.ask("/api/shutdown", method="POST")
        process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_token(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the token in the address that JupyterLab prints, or an empty text if it does not answer at this address."""
    end = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if match := re.search(r"http://127\.0\.0\.1:(\d+)/\S*token=(\w+)", log.read_text()):
            try:
                if Server(int(match[1]), match[2]).ask("/api")[0] == 200:
                    return match[2]
            except OSError:
                pass
        time.sleep(0.3)
    return ""


# What is promised -----------------------------------------------------------------------------------------------------
def test_its_user_is_ordinary_and_cannot_change_the_course(container: Container) -> None:
    script = "id -u; pwd; touch /opt/course/labkit/x 2>/dev/null && echo changed; touch made && ls -n made"
    assert output(*container.command("sh", "-c", script)).splitlines()[:2] == ["1000", "/home/learner/course"]
    assert (container.volume / "made").stat().st_uid == 1000


def test_it_generates_text(container: Container) -> None:
    said = output(*container.command("labkit", "generate", "In the beginning", "--max-new-tokens", "5", "--json"))
    assert json.loads(said[said.index("{") :])


def test_progress_is_on_the_volume(container: Container) -> None:
    hint = "from labkit.grading.check import hint; hint('parameter_count')"
    assert "Hint 1 of 3" in output(*container.command("python", "-c", hint))
    assert json.loads((container.volume / ".labkit" / "progress.json").read_text())


def test_jupyterlab_serves_the_labs_and_keeps_what_the_learner_wrote(container: Container, tmp_path: Path) -> None:
    offered = {path.name for path in (ROOT / "labs").glob("*.ipynb")}
    with running(container, tmp_path / "first.log") as server:
        assert server.ask("/api/contents/labs", token="")[0] == 403
        assert server.ask("/api/contents/labs", token="wrong")[0] == 403
        assert server.ask("/lab")[0] == 200
        status, labs = server.ask("/api/contents/labs")
        assert status == 200
        assert {item["name"] for item in labs["content"]} == offered
        lab = f"/api/contents/labs/{min(offered)}"
        notebook = server.ask(lab)[1]["content"]
        notebook["cells"][0]["source"] = "What I wrote myself"
        assert server.ask(lab, method="PUT", body={"type": "notebook", "content": notebook})[0] == 200
    with running(container, tmp_path / "second.log") as server:
        assert server.ask(lab)[1]["content"]["cells"][0]["source"] == "What I wrote myself"


def test_the_health_check_finds_a_server_and_misses_it(container: Container, tmp_path: Path) -> None:
    port = free_port()
    health = [word.replace(":8888/", f":{port}/") for word in container.health]
    assert health != container.health
    assert subprocess.run(container.command(*health), capture_output=True, check=False).returncode != 0
    with running(container, tmp_path / "health.log", port):
        output(*container.command(*health))


def test_the_size_is_as_stated(container: Container) -> None:
    stated = re.search(r"takes (\d\.\d) GB unpacked", DOCKERFILE.read_text("utf-8"))
    assert stated
    size = container.bytes_unpacked() / 1e9
    if "+cpu" not in output(*container.command("python", "-c", "import torch; print(torch.__version__)")):
        pytest.skip(f"not measured here: the index of this machine has no CPU build of torch; the image takes {size:.1f} GB")
    assert size <= 3
    assert abs(size - float(stated[1])) < 0.15, f"docker/Dockerfile says {stated[1]} GB; the image takes {size:.2f} GB"


def test_without_a_network_lab_01_runs_and_lab_04_is_checked(container: Container) -> None:
    one, four = "solutions/01_huggingface_baseline.ipynb", "solutions/04_triton_deployment.ipynb"
    copied = "mkdir -p solutions && cp /opt/course/solutions/0[14]_*.ipynb solutions"
    output(*container.command("sh", "-c", copied))
    output(*container.offline("jupyter", "execute", "--timeout=1200", one))
    said = output(*container.offline("labkit", "check", one, four, "--json"))
    found = json.loads(said.splitlines()[-1])
    assert {row["exercise"].split(".")[0] for row in found["exercises"]} == {"lab01", "lab04"}
    assert {row["verdict"] for row in found["exercises"]} == {"passed"}, said[-3000:]
