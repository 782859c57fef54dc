"""What a worker leaves behind is ended within a limit, and a failure of the machine is not the learner's failure."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.exercises.registry import exercise
from labkit.grading import workers as workers_module
from labkit.grading.notebook_check import run_apart
from labkit.grading.sandbox import Sandbox
from labkit.grading.submission import submission_of
from labkit.grading.verdict import FAILED, PASSED, UNGRADED, Verdict
from labkit.grading.workers import End, Workers
from tests.gradebook.classes import HEAD, SOLVED
from tests.patience import PATIENCE, is_running, wait_for
from tests.sandboxes import sandbox_or_skip

EXERCISE = exercise("lab00.kv_cache_bytes")
RIGHT = SOLVED.removeprefix(HEAD)
CHAIN = """
import ctypes, os, time
ctypes.CDLL(None).prctl(15, b"{name}", 0, 0, 0)
worker = os.getppid()
open("started", "w").close()
while os.getppid() == worker:
    time.sleep(0.0005)
while True:
    time.sleep(0.002)  # a process without this line would use up the machine's process numbers in a second
    if os.fork():
        os._exit(0)
"""
"""After the function's end, this program starts itself again and ends, over and over: it is gone before it can be killed."""
RESPAWNS = """import os, subprocess, sys, time
    subprocess.Popen([sys.executable, "-ISc", {chain!r}], start_new_session=True)
    while not os.path.exists("started"):
        time.sleep(0.01)
    """


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    """A sandbox, if this machine has one."""
    return sandbox_or_skip()


def verdict_on(body: str, workers: Workers) -> Verdict:
    return run_apart(EXERCISE, submission_of(HEAD + body), workers, (1,))


def named(name: str) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["name"]) if one.info["name"] == name and is_running(one)]


@pytest.mark.parametrize(("seconds", "most"), [(0.3, 10**6), (10.0**6, 20)], ids=["by time", "by number"])
def test_a_process_that_always_starts_another_one_is_ended_with_its_sandbox(
    seconds: float, most: int, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process never lives long enough to be killed alone. The verdict is about the function's answer, as ever."""
    monkeypatch.setattr(workers_module, "END_SECONDS", seconds)
    monkeypatch.setattr(workers_module, "MOST_PROCESSES", most)
    name = f"again-{os.getpid()}"
    with Workers(sandbox=sandbox) as workers:
        found: list[Verdict] = []
        first = threading.Thread(
            target=lambda: found.append(verdict_on(RESPAWNS.format(chain=CHAIN.format(name=name)) + RIGHT, workers))
        )
        first.start()
        first.join(PATIENCE)
        assert found, f"the grader waited {PATIENCE:.0f} s for a process that starts another one again and again"
        assert found[0].verdict == PASSED, found[0]
        wait_for(lambda: not named(name), "the end of the process that starts another one")
        assert verdict_on(RIGHT, workers).verdict == PASSED, "the next function gets a new sandbox"


def test_a_host_that_is_killed_between_two_functions_is_replaced(sandbox: Sandbox) -> None:
    with Workers(sandbox=sandbox) as workers:
        assert verdict_on(RIGHT, workers).verdict == PASSED
        assert workers._host is not None
        host = workers._host
        for process in host._members():
            process.kill()
        wait_for(lambda: not host.is_running, "the end of the host")
        assert verdict_on(RIGHT, workers).verdict == PASSED
        assert verdict_on("raise ValueError('no')", workers).verdict == FAILED


def test_a_function_that_kills_its_own_host_has_failed(sandbox: Sandbox) -> None:
    """A learner can do this at will, so it is a result."""
    with Workers(sandbox=sandbox) as workers:
        verdict = verdict_on("import os, signal; os.kill(os.getppid(), signal.SIGKILL); signal.pause()", workers)
    assert (verdict.verdict, verdict.cause) == (FAILED, "error"), verdict


WITHOUT_FORK = """
import socket, sys
from labkit.grading import worker_host
worker_host.CAN_FORK = False
worker_host.main(socket.socket(fileno=int(sys.argv[1])))
"""


def test_where_a_host_cannot_fork_it_runs_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is how macOS runs functions: each in a host of its own."""
    monkeypatch.setattr(Workers, "_command", lambda self, needs: [sys.executable, "-c", WITHOUT_FORK])
    with Workers() as workers:
        assert verdict_on(RIGHT, workers).verdict == PASSED
        assert "ValueError: no" in verdict_on("raise ValueError('no')", workers).message


def test_a_host_that_does_not_start_is_a_failure_of_the_machine(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    with Workers(sandbox=Sandbox(str(program))) as workers:
        verdict = verdict_on(RIGHT, workers)
    assert (verdict.verdict, verdict.points) == (UNGRADED, 0)
    assert "did not start (status 7)" in verdict.message


def test_a_worker_that_cannot_be_started_is_a_failure_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host runs in a thread of this test, where starting a process fails as on a machine without memory."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # the module sets it, too
    from labkit.grading import worker_host

    def fails() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(worker_host, "CAN_FORK", True)
    monkeypatch.setattr(worker_host, "_protect_memory", lambda is_protected: None)
    monkeypatch.setattr(os, "fork", fails)
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=worker_host.main, args=(theirs,), daemon=True)
    thread.start()
    host = _host_at(ours)
    end = host.run(tmp_path / "job.json", tmp_path, 1.0)
    assert end == End(None, problem="no process could be started (Resource temporarily unavailable)", has_run=False)
    assert not host.has_ended, "the host can be asked again"
    ours.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def _host_at(control: socket.socket) -> Any:
    """A host whose process is this test's own."""

    class HostHere(workers_module._Host):
        def __init__(self) -> None:
            self.needs, self.has_ended, self._control, self._own = (), False, control, None

        def _members(self) -> list[psutil.Process]:
            return []

    return HostHere()
