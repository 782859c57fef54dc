"""If a time limit passes on a busy machine, the verdict is inconclusive: it is not a failure, and no points are lost.

Time that the learner's own processes use is never an excuse.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.exercises.registry import all_exercises
from labkit.grading import notebook_check
from labkit.grading.call import Outcome
from labkit.grading.judge import AGAIN, judge
from labkit.grading.notebook_check import run_apart
from labkit.grading.submission import submission_of
from labkit.grading.verdict import FAILED, INCONCLUSIVE, Verdict, state
from labkit.measure.busy_machine import BusyMachine
from labkit.time_limits import limit_passed
from tests.busy_core import COUNTED, FIRST_CORE, PINNED, busy_core
from tests.grading.forms import an_answer
from tests.patience import PATIENCE, is_running, wait_for

SHARED = f"""
import os, subprocess, sys, time
from pathlib import Path
import psutil
from labkit.grading.call import run_seeds
from labkit.grading.judge import judge
from labkit.measure import contention
from tests.grading.forms import an_answer

SPINS = [sys.executable, "-c", "while True: pass"]

def spins(rows, scale):
    while True:
        pass

def waits_for_its_child(rows, scale):
    subprocess.run(SPINS)

def sleeps(rows, scale):
    time.sleep(600)

def show_verdict_on(function):
    answer = an_answer(seconds=2.0)
    print(str(judge(answer, run_seeds(function, answer.exercise, (1, 2)))).splitlines()[0])

print("ready", flush=True)
input()
{FIRST_CORE}
"""
"""Source code of a process that shares the first core with other programs, with functions that do not end."""

HIDES = """
pids, notes = [], Path(sys.argv[1])

def hides_its_children(rows, scale):
    child = subprocess.Popen(SPINS)
    detached = subprocess.Popen(SPINS, start_new_session=True)
    subprocess.run(["setsid", "sh", "-c", '"$@" & echo $! > ' + str(notes), "sh", *SPINS])
    pids.extend([child.pid, detached.pid, int(notes.read_text())])
    time.sleep(600)

def processor_time():
    times = [psutil.Process(pid).cpu_times() for pid in [os.getpid(), *pids]]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)

contention._used_by_all, contention._stolen = processor_time, lambda: [0.0]
try:
    show_verdict_on(hides_its_children)
finally:
    notes.write_text(" ".join(map(str, pids)))
    for pid in pids:
        os.kill(pid, 9)
"""
"""In this source, three children spin, and the parent of the third has ended. The check sees no other program that runs."""


def said_by(source: str, *arguments: str, others: int = 0) -> list[str]:
    """The lines that this source prints while `others` other programs keep the first core busy."""
    command = [sys.executable, "-c", SHARED + source, *arguments]
    root, pipe = Path(__file__).parents[2], subprocess.PIPE
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process, ExitStack() as busy:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(others):
            busy.enter_context(busy_core())
        said, errors = process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 0, errors
    return said.splitlines()


@PINNED
@COUNTED
def test_a_call_that_is_stopped_on_a_busy_core_is_inconclusive_unless_it_slept() -> None:
    functions = ("spins", "waits_for_its_child", "sleeps")
    spins, waits, sleeps = said_by("\n".join(f"show_verdict_on({function})" for function in functions), others=2)
    for said in (spins, waits):
        assert said.startswith(
            f"? 9.1 Sums: {INCONCLUSIVE}, 0/10 points. {AGAIN} Your function did not finish within 2 seconds,"
        )
        assert "but other programs kept this one waiting for a core for" in said
    assert sleeps.startswith(f"✗ 9.1 Sums: {FAILED}")


@PINNED
@COUNTED
def test_waiting_for_the_own_children_fails_even_if_they_hide(tmp_path: Path) -> None:
    notes = tmp_path / "pids"
    assert said_by(HIDES, str(notes))[0].startswith(f"✗ 9.1 Sums: {FAILED}")
    pids = [int(pid) for pid in notes.read_text().split()]
    assert len(pids) == 3
    wait_for(lambda: not any(map(is_running, pids)), "the end of the processes that were killed")


def of_worker(source: str, patch: pytest.MonkeyPatch) -> Verdict:
    """The verdict of `labkit check` on a cell that runs this source when it defines its function. The time limit is three
    seconds.
    """
    patch.setattr(notebook_check, "START_SECONDS", 3 - int(3 * all_exercises()[0].seconds))
    code = f"SOURCE = {FIRST_CORE + source!r}\ndef parameter_count(config, ran=exec(SOURCE)): return 5"
    return run_apart(all_exercises()[0], submission_of(code))


@PINNED
@COUNTED
def test_a_worker_that_is_ended_on_a_busy_core_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    with busy_core(), busy_core():
        verdict = of_worker("while True: pass", monkeypatch)
    assert (verdict.verdict, verdict.points) == (INCONCLUSIVE, 0), verdict.message
    assert verdict.message.startswith(f"{AGAIN} Your function did not finish within 3 seconds, but other programs kept this")


def test_only_what_a_time_limit_spoilt_is_excused() -> None:
    answer, busy = an_answer(), Outcome(error="it was stopped", busy="a limit passed, but others were busy")
    right = [Outcome(answer.to(case)) for case in answer.exercise.cases(1)]
    late = [replace(outcome, busy=busy.busy) for outcome in right]
    assert judge(answer, {1: [right[0], busy]}).verdict == INCONCLUSIVE
    assert judge(answer, {1: [right[0], replace(late[1], value=12345.0)]}).verdict == INCONCLUSIVE
    assert judge(answer, {1: [right[0], replace(busy, busy="", error_kind="OutOfTimeError")]}).verdict == FAILED
    assert judge(answer, {1: [Outcome(12345.0), busy]}).verdict == FAILED
    assert judge(answer, {1: late}).points == 10


def test_without_a_time_limit_nothing_is_excused() -> None:
    with busy_core(), BusyMachine() as machine:
        pass
    assert machine.words == ""
    limit_passed("nobody listens")


def test_points_of_an_earlier_pass_are_kept() -> None:
    assert state(INCONCLUSIVE, 10) == "passed before (10 points kept); the last check was inconclusive"
