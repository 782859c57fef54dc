"""`labkit lab`: who can use the JupyterLab that it starts. Everybody who can use it can run programs as the user who started
it.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE, if_alive, wait_for

pytest.importorskip("jupyterlab", reason="not measured here: no JupyterLab")

EMPTY = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
HOMES = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "LABKIT_HOME")
CHANNEL = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x" * 22 + "==", "Sec-WebSocket-Version": "13"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[psutil.Process, int, str]]:
    """The process of `labkit lab`, its port, and the token that it prints."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "labs").mkdir()
    (folder / "labs" / "00_class_environment.ipynb").write_text(
        '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    homes = {
        name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "LABKIT_HOME")
    }
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "labkit", "lab", "--course", str(folder), "--port", str(port), "--no-browser"]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | homes, stdout=output, stderr=output, cwd=folder)
    try:
        address = rf"127\.0\.0\.1:{port}/\S*token=(\w+)"
        wait_for(lambda: process.poll() is not None or re.search(address, log.read_text()), "the address of JupyterLab")
        found = re.search(address, log.read_text())
        assert found, log.read_text()
        wait_for(lambda: listens(port), "JupyterLab, which says its address before it listens there")
        yield psutil.Process(process.pid), port, found[1]
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    """Whether a process is listening on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Send a GET request. Return the status of the answer, and the cookies that it sets."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, "; ".join(one.partition(";")[0] for one in answer.headers.get_all("Set-Cookie", []))
    finally:
        connection.close()


def test_it_listens_on_loopback_alone(lab: tuple[psutil.Process, int, str]) -> None:
    process, port, _ = lab
    found = {(one.laddr.ip, one.laddr.port) for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    assert ("127.0.0.1", port) in found
    assert {address for address, _ in found} <= {"127.0.0.1", "::1"}


def test_without_its_token_nobody_gets_in(lab: tuple[psutil.Process, int, str]) -> None:
    _, port, token = lab
    assert len(token) >= 40
    assert get(port, "/api/contents", Authorization=f"token {token}")[0] == 200
    for path in ("/api/contents", "/api/kernels", "/api/terminals", "/api/sessions", "/api/config/x"):
        assert get(port, path)[0] == 403, path
        assert get(port, path, Authorization="token " + "0" * len(token))[0] == 403, path


def test_a_page_under_another_name_does_not_get_in(lab: tuple[psutil.Process, int, str]) -> None:
    """Two attacks fail even with the browser's cookie.

    One attack uses a foreign host name that resolves to this machine; the other opens a channel from another origin.
    """
    _, port, token = lab
    status, cookies = get(port, f"/lab?token={token}")
    assert (status, "username-" in cookies) == (200, True)
    assert get(port, "/api/contents", Cookie=cookies)[0] == 200
    assert get(port, "/api/contents", Cookie=cookies, Host=f"evil.example:{port}")[0] == 403
    own = CHANNEL | {"Cookie": cookies, "Origin": f"http://127.0.0.1:{port}"}
    assert get(port, "/api/events/subscribe", **own)[0] == 101
    assert get(port, "/api/events/subscribe", **own | {"Origin": "http://evil.example"})[0] == 403


def test_its_token_is_in_no_process_list_and_in_files_of_its_user(lab: tuple[psutil.Process, int, str]) -> None:
    process, _, token = lab
    assert "jupyterlab" in " ".join(process.cmdline())
    family = [process, *process.children(recursive=True)]
    assert token not in " ".join(word for one in family for word in if_alive(one.cmdline, []))
    runtime = Path(process.environ()["JUPYTER_RUNTIME_DIR"])
    files = [file for file in runtime.iterdir() if file.is_file() and token in file.read_text(errors="replace")]
    assert files
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
