"""`solved("my_function")`: returns a learner's function for a cell that otherwise uses labkit's own function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from labkit.exercises.registry import exercise as find
from labkit.grading.check import check_quietly
from labkit.grading.machine_needs import missing
from labkit.grading.verdict import NOT_ATTEMPTED, PASSED


def solved(name: str) -> Callable[..., Any] | None:
    """Return the notebook's function with this name if it passes its exercise now. Otherwise print why not, and return None.

    A cell of the core path calls this for the function of an extra. Raises `InvalidRequest` if no exercise asks for `name`.
    """
    exercise = find(name)
    what = f"{exercise.function} (exercise {exercise.number}, {exercise.track})"
    instead = "labkit's own function takes its place."
    function: Callable[..., Any] | None = sys._getframe(1).f_globals.get(exercise.function)
    if why := missing(exercise):
        print(f"Not measured here: your {what} {why}; {instead}")
        return None
    verdict = check_quietly(exercise, function) if function is not None else None
    if verdict is None or verdict.verdict == NOT_ATTEMPTED:
        print(f"You have not solved {what}; {instead}")
    elif verdict.verdict != PASSED:
        print(f"Your {what} does not pass: {verdict.message.rstrip('.')}; {instead}")
    else:
        return function
    return None
