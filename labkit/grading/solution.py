"""Shows the course's own solution of an exercise to a learner who has passed it or gives up.

No notebook is changed.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.errors import NotAvailable
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import exercise as find
from labkit.grading.check import exercise_of
from labkit.grading.nbgrader_run import is_run_by_nbgrader
from labkit.grading.progress import Progress
from labkit.grading.python_cells import UNPARSABLE, parse
from labkit.grading.solution_source import Solution, solution_of


def solution(function: Callable[..., Any] | str, *, give_up: bool = False) -> None:
    """Print the course's solution of an exercise that has passed, and how it differs from your function.

    Before a pass, the solution is printed only with `give_up`. This is recorded: from then on the exercise earns no new points.
    If this copy of the course has no solutions, a message says what to do, and nothing is recorded. Raises `InvalidRequest` if
    there is no such exercise.
    """
    exercise = find(function) if isinstance(function, str) else exercise_of(function, sys._getframe(1).f_globals)
    if not Progress.is_kept or is_run_by_nbgrader():
        return
    if not (give_up or may_see(exercise)):
        print(f"{not_yet(exercise)} To give up: solution({exercise.function}, give_up=True)")
        return
    try:
        found = show_solution(exercise)
    except NotAvailable as error:
        print(error)
        return
    print(in_words(exercise, found))
    if differs := "" if isinstance(function, str) else difference(function, found.text, exercise.function):
        print(f"\nWhat differs (- your function, + the solution):\n{differs}")


def may_see(exercise: Exercise) -> bool:
    """Whether the exercise has passed, or was given up before."""
    standing = Progress().standings()[exercise.name]
    return standing.points > 0 or standing.given_up


def not_yet(exercise: Exercise) -> str:
    """A text that says why the solution is not shown, and what it costs to see the solution."""
    return (
        f"Exercise {exercise.number} ({exercise.function}) has not passed yet. Its solution is shown after a pass. If you give "
        "up, it is shown now, but then the exercise earns no new points in your panel."
    )


def show_solution(exercise: Exercise, course: Path | None = None) -> Solution:
    """Return an exercise's solution; before a pass, record that the learner gave up. Raises `NotAvailable` if there is none."""
    found = solution_of(exercise, course)
    Progress().give_up(exercise.name)
    return found


def in_words(exercise: Exercise, found: Solution) -> str:
    """The solution as a text. The line before it names the source, and the line after it says what happens to the points."""
    given_up = Progress().standings()[exercise.name].given_up
    end = "It is recorded that you gave up: this exercise earns no new points." if given_up else "Your points are kept."
    return f"The solution of exercise {exercise.number}, from {found.path}:\n\n{found.text}\n\nNo cell was changed. {end}"


def difference(function: Callable[..., Any], text: str, name: str) -> str:
    """The lines in which a function of the kernel differs from the function in `text`.

    The result is "" if they are equal, or if the source is not known.
    """
    try:
        own = _definition(textwrap.dedent(inspect.getsource(function)), name)
        right = _definition(text, name)
    except (OSError, TypeError, *UNPARSABLE):
        return ""
    lines = difflib.unified_diff(own.splitlines(), right.splitlines(), lineterm="", n=1) if own and right else ()
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _definition(source: str, name: str) -> str:
    """The text of the function with this name; "" if the source does not define it at its top level."""
    found = [part for part in parse(source).body if isinstance(part, ast.FunctionDef) and part.name == name]
    return ast.get_source_segment(source, found[-1]) or "" if found else ""
