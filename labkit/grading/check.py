"""The functions that a learner calls in a notebook: `check(my_function)`, `passed(my_function)`, `hint(my_function)`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import all_exercises
from labkit.exercises.registry import exercise as find
from labkit.exercises.sheet_answer import NoAnswer
from labkit.grading.call import run_seeds
from labkit.grading.find_answer import answer_to
from labkit.grading.hint_costs import hint_costs
from labkit.grading.judge import SEEDS, not_measured
from labkit.grading.judge_alone import judge_alone, judge_any
from labkit.grading.machine_needs import missing
from labkit.grading.nbgrader_run import for_nbgrader, is_run_by_nbgrader
from labkit.grading.progress import Progress
from labkit.grading.shorten import shorten
from labkit.grading.verdict import INCONCLUSIVE, NO_ANSWER, NOT_ATTEMPTED, PASSED, Verdict
from labkit.measure import progress_bar
from labkit.plurals import counted

SILENT_SECONDS = 2.0
"""If a check takes longer than this many seconds, it shows a progress bar."""


def check(function: Callable[..., Any]) -> Verdict:
    """Call `function` with the inputs of its exercise, show the verdict, and record it.

    The exercise is found by the name of the function, or by a name to which the notebook assigns the function (`kv_bytes =
    lambda ...`). Points from an earlier check are kept. If the function belongs to no exercise, this raises `InvalidRequest`
    with the names of the functions that exist. Errors of the function itself are not raised.

    If nbgrader executes the notebook, nothing is recorded, and `NoPoints` is raised unless the verdict is a pass (see
    `nbgrader_run`).
    """
    exercise = exercise_of(function, sys._getframe(1).f_globals)
    if is_run_by_nbgrader():
        return for_nbgrader(lambda: check_quietly(exercise, function, aloud=True))
    verdict = check_quietly(exercise, function, aloud=True)
    standing = Progress().record(verdict)
    shown = replace(verdict, message=f"{verdict.message} {standing.remark if verdict.points else ''}".rstrip())
    show(shown.text(standing.earned), shown.html(standing.earned))
    return verdict


def exercise_of(function: Callable[..., Any], names: Mapping[str, Any]) -> Exercise:
    """The exercise of a function. It is found by the function's own name or, if that fails, by a name that the function has in
    the notebook (`names`).

    If the function belongs to no exercise, this raises `InvalidRequest` with the names of the functions that exist.
    """
    known = {exercise.function for exercise in all_exercises()}
    own = getattr(function, "__name__", None)
    if isinstance(own, str) and own in known:
        return find(own)
    given = (name for name, value in names.items() if value is function and name in known)
    return find(next(given, shorten(str(own or repr(function)))))


def check_quietly(exercise: Exercise, function: Callable[..., Any], *, aloud: bool = False) -> Verdict:
    """Return the verdict without recording or showing it.

    If `aloud` is true, the function's output for the first input is shown.
    """
    why = missing(exercise)
    if why:
        return not_measured(exercise, why)
    answer = answer_to(exercise)
    if isinstance(answer, NoAnswer) and not answer.has_inputs:
        return judge_alone(answer, {})
    progress = progress_bar(f"inputs of exercise {exercise.number}", after=SILENT_SECONDS)
    return judge_any(answer, run_seeds(function, exercise, SEEDS, progress, aloud=aloud))


def passed(function: Callable[..., Any] | str) -> bool:
    """Whether this function passes its exercise now. A cell that needs a learner's function calls `passed` first.

    If a name is given instead of a function, the result says whether the function with this name has ever passed. If the result
    is False, a printed message names the exercise that the cell needs, and says what is wrong with the function.

    If this copy of labkit has no answer to the exercise, the result is True unless the function raises an error or breaks a
    rule. A message then says that the cell uses an unchecked function.
    """
    exercise = find(function) if isinstance(function, str) else exercise_of(function, sys._getframe(1).f_globals)
    if why := missing(exercise):
        print(f"Not measured here: exercise {exercise.number} {why}, which this machine does not have.")
        return False
    standing = Progress().standings()[exercise.name]
    if isinstance(function, str):
        if not standing.points:
            print(f"{_needs(exercise)} Solve it first.")
        return standing.points > 0
    verdict = check_quietly(exercise, function)
    if verdict.cause == NO_ANSWER:
        print(f"{_needs(exercise)} Nothing has checked its values, because this copy of labkit has no answer to compare with.")
        return True
    if verdict.verdict == NOT_ATTEMPTED:
        print(f"{_needs(exercise)} Solve it first.")
    elif verdict.verdict == INCONCLUSIVE:
        print(f"{_needs(exercise)} {verdict.message}")
    elif verdict.verdict != PASSED:
        kept = counted(standing.earned, "point")
        before = f"It passed before ({kept} kept), but what you have now fails" if standing.points else "It fails"
        print(f"{_needs(exercise)} {before}: {verdict.message}")
    return verdict.verdict == PASSED


def _needs(exercise: Exercise) -> str:
    return f"This cell needs your {exercise.function} (exercise {exercise.number})."


def hint(function: Callable[..., Any] | str, *, pay: bool = False) -> None:
    """Show the exercise's next hint. The first of its three hints is a question, and the last hint is one line of the answer.

    After the third hint, all three hints are shown again. If the next hint costs points by the course's rules, the hint is
    shown only if `pay` is true; otherwise its cost is shown. Raises `InvalidRequest` if there is no such exercise, or if the
    rules are invalid.
    """
    exercise = find(function) if isinstance(function, str) else exercise_of(function, sys._getframe(1).f_globals)
    costs, progress = hint_costs(), Progress()
    cost = progress.standings()[exercise.name].next_hint_cost(costs)
    if cost and not pay:
        print(f"The next hint costs {counted(cost, 'point')}. To open it: hint({exercise.function}, pay=True)")
        return
    for number in progress.next_hints(exercise.name, costs):
        print(f"Hint {number + 1} of 3 for {exercise.number}: {exercise.hints[number]}")


def in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook, which can show more than text."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


def show(text: str, html: str) -> None:
    """In a notebook, display the HTML, with the text as its plain-text form. Elsewhere, print the text."""
    if not in_notebook():
        print(text)
        return
    from IPython.display import display

    display({"text/plain": text, "text/html": html}, raw=True)  # type: ignore[no-untyped-call]
