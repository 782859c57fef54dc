"""Arguments that a program gets, but that the process list does not show."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.serving.server import guardian
from labkit.serving.server.hidden_arguments import TRACEME, CannotHide, _ptrace, start_hidden
from tests.patience import PATIENCE

SECRETS = ["--first=a:secret=12345678", "--second=b:secret=" + "x" * 300]

TELL = """
import json, os, subprocess, sys
children = subprocess.run(["env"], capture_output=True, text=True).stdout
print(json.dumps([sys.argv[1:], dict(os.environ), children]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def told(tmp_path: Path) -> Iterator[tuple[int, Any]]:
    """A running program that has recorded its arguments, its environment, and the environment of its children."""
    reading, writing = os.pipe()
    output = tmp_path / "told"

    def in_child() -> None:
        os.dup2(reading, 0)
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)

    command = [sys.executable, "-c", TELL, "shown"]
    environment = {"FIRST": "1", **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}, "LAST": "2"}
    program = start_hidden(command, SECRETS, environment, in_child)
    while not output.exists() or not output.read_text().endswith("\n"):
        assert program.poll() is None, "it ended"
        time.sleep(0.02)
    yield program.pid, json.loads(output.read_text())
    os.close(writing)
    os.close(reading)
    assert program.wait(PATIENCE) == 0, "it goes on by itself, and ends well"


def test_the_program_has_them_and_the_process_list_has_not(told: tuple[int, Any]) -> None:
    pid, (arguments, environment, of_children) = told
    assert arguments == ["shown", *SECRETS]
    shown = psutil.Process(pid).cmdline()
    assert shown[-3:] == ["shown", "--first=a:...", "--second=b:..."]
    assert "secret" not in " ".join(shown)
    assert not [name for name, value in environment.items() if "secret" in value], "nor does its own code find them there"
    assert {"FIRST": "1", "LAST": "2"}.items() <= environment.items()
    assert "secret" not in of_children
    assert {"FIRST=1", "LAST=2"} <= set(of_children.splitlines())


def test_the_environment_in_which_they_lie_is_its_user_s_alone(told: tuple[int, Any]) -> None:
    assert Path(f"/proc/{told[0]}/environ").stat().st_mode & 0o077 == 0


def test_where_it_cannot_be_done_nothing_runs(tmp_path: Path) -> None:
    """A process can ask only once to be traced by its parent. The process of this test has asked already, which imitates a
    machine that forbids tracing.
    """
    before = psutil.Process().children()
    with pytest.raises(CannotHide):
        start_hidden(["touch", str(tmp_path / "ran")], SECRETS, dict(os.environ), _trace_once)
    assert psutil.Process().children() == before
    assert not (tmp_path / "ran").exists()


def _trace_once() -> None:
    assert _ptrace(TRACEME, 0) == 0
    signal.signal(signal.SIGTRAP, signal.SIG_IGN)


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        start_hidden(["/no-such-program"], SECRETS, dict(os.environ), lambda: None)


def test_a_machine_that_forbids_it_is_named_and_the_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*_: object) -> None:
        raise CannotHide("ptrace is not allowed")

    monkeypatch.setattr(guardian, "start_hidden", forbidden)
    program = guardian._start(["A=1", "/bin/sh", "-c", 'echo "$A $1"', "sh"], ["--option=a:secret=2"])
    assert program.wait(PATIENCE) == 0
    said = capfd.readouterr()
    assert said.out == "1 --option=a:secret=2\n"
    assert "the server's secret is visible in the process list: ptrace is not allowed" in said.err
