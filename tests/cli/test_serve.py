"""`labkit serve` as a user runs it: the ready line, an answer over HTTP, Ctrl-C, and its messages about a repository."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import urllib.request
from pathlib import Path

import psutil
import pytest

from labkit.cli.serve import serve
from labkit.errors import NotAvailable
from labkit.serving.channels import open_url
from labkit.serving.server.install import find_server
from tests.cli.test_commands import many
from tests.patience import PATIENCE, if_alive, is_running, wait_for

COMMAND = [sys.executable, "-m", "labkit", "serve"]
ANY_PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]

SLOW_CONFIG = """
name: "slow"
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""
SLOW_MODEL = """
import pathlib, time

class TritonPythonModel:
    def initialize(self, args):
        pathlib.Path(args["model_repository"]).parent.joinpath("begun").touch()
        time.sleep(3600)

    def execute(self, requests):
        return []
"""

needs_server = pytest.mark.skipif(find_server() is None, reason="not measured here: no Triton Inference Server")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE)


KILLED = """
import time
from labkit.serving.server.locked_folder import LockedFolder
print(LockedFolder("repository").path, flush=True)
time.sleep(600)
"""


def leave_a_repository() -> Path:
    """Kill a program that has made a repository's folder as `labkit serve` does. Return the folder, which is left behind."""
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        owner.kill()
    assert left.is_dir()
    return left


@needs_server
def test_it_serves_until_it_is_interrupted_and_leaves_nothing(tmp_path: Path) -> None:
    left = leave_a_repository()
    with subprocess.Popen(
        [*COMMAND, "gptj-tiny", "--json", "--max-batch", "4", "--log", str(tmp_path / "log"), *ANY_PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        ready = json.loads(command.stdout.readline())
        assert not left.exists(), "what another one left"
        family = [psutil.Process(ready["pid"]), *psutil.Process(command.pid).children(recursive=True)]
        asked = {"text_input": "In the beginning", "max_new_tokens": 8}
        request = urllib.request.Request(f"http://{ready['http']}/v2/models/gptj/generate", data=json.dumps(asked).encode())
        with open_url(request, timeout=PATIENCE) as answer:
            reply = json.load(answer)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, said
    assert reply["completion_tokens"] == 8
    assert reply["text_output"].startswith(" of the")
    assert {"gptj", "ensemble", "preprocessing", "fastertransformer", "postprocessing"} == set(ready["models"])
    assert f"ready: HTTP {ready['http']}" in said
    assert not [process for process in family if is_running(process)]
    assert not Path(ready["repository"]).exists()
    assert (tmp_path / "log").stat().st_size > 0


def slow_repository(folder: Path) -> Path:
    """Write a repository whose only model takes an hour to load."""
    (folder / "slow" / "1").mkdir(parents=True)
    (folder / "slow" / "config.pbtxt").write_text(SLOW_CONFIG)
    (folder / "slow" / "1" / "model.py").write_text(SLOW_MODEL)
    return folder


@pytest.mark.parametrize("own", [True, False])
def test_the_time_of_a_start_is_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """own: a repository of one's own, or one that the command writes."""
    given: list[float] = []

    def server(*_: object, start_seconds: float, **__: object) -> None:
        given.append(start_seconds)
        raise NotAvailable("this is not a server")

    monkeypatch.setattr("labkit.serving.server.Server", server)
    monkeypatch.setattr("labkit.serving.server.install.need_server", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(NotAvailable, match="not a server"):
        serve(str(slow_repository(tmp_path)) if own else "gptj-tiny", start_seconds=840.0)
    assert given == [840.0]


@needs_server
@pytest.mark.long
def test_an_interruption_while_a_model_loads_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([*COMMAND, str(slow_repository(tmp_path)), *ANY_PORTS], stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        while command.stderr.readline() != "slow is being loaded\n":
            assert command.poll() is None
        wait_for((tmp_path / "begun").exists, "the model's code")
        family = psutil.Process(command.pid).children(recursive=True)
        command.send_signal(signal.SIGINT)
        said = command.stderr.read()
    assert command.returncode == 1
    assert said == "labkit: the start was cancelled before the server was ready\n"
    assert len(family) >= 3, "guardian, server and model"
    assert not [process for process in family if is_running(process)]


@needs_server
def test_on_a_terminal_it_says_what_it_does_and_what_it_mended(tmp_path: Path) -> None:
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 150))
    said = ""
    with subprocess.Popen([*COMMAND, "gptj-tiny", "--max-batch", "4", *ANY_PORTS], stderr=terminal) as command:
        os.close(terminal)

        def read_until(words: str) -> None:
            nonlocal said
            while words not in said:
                said += os.read(screen, 65536).decode()

        read_until("gptj-tiny: 0 running, 0 waiting, ")
        (killed,) = [
            process
            for process in psutil.Process(command.pid).children(recursive=True)
            if any("/preprocessing/1/model.py" in word for word in if_alive(process.cmdline, []))
        ]
        killed.kill()
        read_until("preprocessing did not answer; it was loaded again, which took ")
        read_until("cache 0% full")
        (server,) = [
            process
            for process in psutil.Process(command.pid).children(recursive=True)
            if if_alive(process.name, "") == "tritonserver"
        ]
        server.kill()
        read_until("tritonserver was ended by SIGKILL")
        read_until("tritonserver answers again after ")
        read_until("cache 0% full, started again 1 time")
        command.send_signal(signal.SIGINT)
        read_until("the server finishes its requests and ends; a second Ctrl-C ends it at once")
    os.close(screen)
    assert command.returncode == 0


def test_a_repository_is_written_and_looked_over(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    write = ["serve", "gptj-tiny", "--write-only", "--repository", str(folder), "--json"]
    written, checked = many(tmp_path, write, ["serve", str(folder), "--check"])
    assert json.loads(written.out.splitlines()[-1])["repository"] == str(folder)
    assert checked.status == 0
    config = folder / "gptj" / "config.pbtxt"
    config.write_text(config.read_text().replace("decoupled: true", "decoupled: false"))
    line = 1 + next(n for n, text in enumerate(config.read_text().splitlines()) if "decoupled" in text)
    found = run(str(folder))
    assert found.returncode == 2
    assert f"gptj/config.pbtxt:{line}: " in found.stderr
    assert "has 1 fault, listed above; correct them first" in found.stderr


def test_what_is_no_model_and_what_is_no_room_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("a letter")
    refusals = {
        "there is no model 'nosuch'": ["nosuch", "--repository", str(tmp_path / "a")],
        "holds files that labkit did not write": ["gptj-tiny", "--repository", str(tmp_path / "mine")],
        "max_batch is 0; at least 1 is accepted": ["gptj-tiny", "--max-batch", "0"],
    }
    commands = [["serve", "--write-only", *arguments] for arguments in refusals.values()]
    for words, found in zip(refusals, many(tmp_path, *commands), strict=True):
        assert found.status == 2
        assert words in found.errors
    assert (tmp_path / "mine" / "letter.txt").read_text() == "a letter"


@needs_server
def test_an_install_needs_no_torch() -> None:
    """The set-up installs the server even where torch cannot run, as in an emulator that builds an image for ARM."""
    program = (
        "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['serve', '--install']; from labkit.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    server = find_server()
    assert server is not None
    assert str(server.executable) in done.stdout + done.stderr
