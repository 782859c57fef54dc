"""If the time limit ends a call on a busy machine, the verdict is inconclusive: no failure, and no points are lost."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from labkit.grading.call import BUSY, Outcome
from labkit.grading.judge import AGAIN, judge
from labkit.grading.verdict import FAILED, INCONCLUSIVE, state
from tests.busy_core import COUNTED, PINNED, busy_core
from tests.grading.forms import an_exercise
from tests.patience import PATIENCE

SHARED = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from labkit.grading.call import run_seeds
from labkit.grading.judge import judge
from tests.grading.forms import an_exercise

def endless(rows, scale):
    while True:
        pass

exercise = an_exercise(seconds=3.0)
verdict = judge(exercise, run_seeds(endless, exercise, (1, 2)))
print(verdict)
"""


@PINNED
@COUNTED
def test_a_call_that_is_stopped_on_a_busy_core_is_inconclusive() -> None:
    command = [sys.executable, "-c", SHARED]
    with busy_core(), busy_core():
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"? 9.1 Sums: {INCONCLUSIVE}, 0/10 points. {AGAIN} Your function did not finish: it ran for")
    assert "3 seconds and was stopped, but other programs kept this one waiting for a core for" in done.stdout


def test_only_the_time_limit_is_excused() -> None:
    exercise, busy = an_exercise(), Outcome(error="it was stopped", error_kind=BUSY)
    right = [Outcome(exercise.answer(case)) for case in exercise.cases(1)]
    assert judge(exercise, {1: [right[0], busy]}).verdict == INCONCLUSIVE
    assert judge(exercise, {1: [replace(busy, error_kind="OutOfTimeError")]}).verdict == FAILED
    assert judge(exercise, {1: [Outcome(12345.0), busy]}).verdict == FAILED


def test_points_of_an_earlier_pass_are_kept() -> None:
    assert state(INCONCLUSIVE, 10) == "passed before (10 points kept); the last check was inconclusive"
