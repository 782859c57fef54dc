"""Turns the outcomes of calls into a verdict. The verdict names a known mistake, or describes any other wrong answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from labkit.errors import NotAvailable
from labkit.exercises.answer import Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Difference
from labkit.exercises.describe import describe_difference, ended
from labkit.exercises.exercise import Exercise
from labkit.exercises.sheet_answer import KnownAnswer
from labkit.grading.call import NOT_ATTEMPTED, Outcome, OutOfTimeError, call_and_observe, decided
from labkit.grading.shorten import shorten
from labkit.grading.verdict import ERROR, FAILED, INCONCLUSIVE, NOT_MEASURED, PASSED, TIMED_OUT, UNGRADED, Verdict
from labkit.grading.verdict import NOT_ATTEMPTED as UNTOUCHED
from labkit.measure.busy_machine import BusyMachine
from labkit.plurals import counted

SEEDS = (11, 23, 47)
"""The seeds of the inputs. Each check uses the cases of all these seeds."""

MOST_MESSAGE, MOST_LINE = 1000, 300
"""The largest number of characters in a verdict's message, and in one line of its details."""
MOST_PRINTED = 12
"""A verdict shows at most this many lines of the function's output for the failed case."""
_INPUT = "case: "
AGAIN = "The machine was busy; close other programs and run the check again."


def judge(answer: KnownAnswer, runs: Mapping[int, Sequence[Outcome]]) -> Verdict:
    """The verdict on the outcomes of all seeds (see `run_seeds`). If there are no outcomes, the verdict is a fail."""
    exercise = answer.exercise
    for seed, outcomes in runs.items():
        cases = exercise.cases(seed)
        expected, busy = _expected(answer, seed)
        if busy:
            return inconclusive(exercise, busy)
        for case, right, outcome in zip(cases, expected, outcomes, strict=False):
            if outcome.error_kind == NOT_ATTEMPTED:
                return untouched(exercise)
            difference = None if outcome.error else _difference(answer, outcome.value, right)
            if outcome.busy and (outcome.error or difference):
                return inconclusive(exercise, outcome.busy, details_of(exercise, case, outcome))
            if difference and (alone := decided(exercise, outcome.value)):
                return make(exercise, FAILED, alone, details_of(exercise, case, outcome))
            if outcome.error or difference:
                known = _known_mistake(answer, runs)
                return _failed(answer, case, outcome, right, difference, known)
            if outcome.changed:
                message = f"The result is right, but your function changes its {outcome.changed}; work on a copy."
                return make(exercise, FAILED, message, details_of(exercise, case, outcome))
            if outcome.breach:
                message = f"The result is right, but {outcome.breach}."
                return make(exercise, FAILED, message, details_of(exercise, case, outcome))
        if len(outcomes) != len(cases):
            return make(
                exercise,
                FAILED,
                f"Your function returned {counted(len(outcomes), 'answer')} for {counted(len(cases), 'input')}.",
            )
    if not runs:
        return make(exercise, FAILED, "Your function returned no answers.")
    agree = counted(sum(map(len, runs.values())), "input agrees", "inputs agree")
    return make(exercise, PASSED, f"{agree} with {answer.source}.")


def _expected(answer: KnownAnswer, seed: int) -> tuple[list[Any], str]:
    """The right answers, and `BusyMachine.words`. The words are needed because a reference implementation that runs in a server
    also has time limits, which can pass on a busy machine.

    If the right answers cannot be computed, raises `NotAvailable`: they do not depend on the learner's function.
    """
    with BusyMachine() as machine:
        try:
            return answer.expected(seed), machine.words
        except NotAvailable:
            if not machine.words:
                raise
        except Exception as error:
            if not machine.words:
                words = shorten(f"{type(error).__name__}: {error}")
                raise NotAvailable(f"the right answers could not be computed ({words}); run the check again") from error
    return [], machine.words


def make(exercise: Exercise, verdict: str, message: str, details: str = "", cause: str = "") -> Verdict:
    """A verdict on this exercise: full points for a pass, otherwise no points. Long texts are shortened."""
    points = exercise.points if verdict == PASSED else 0
    title = f"{exercise.number} {exercise.title}"
    lines = [shorten(line, MOST_LINE) for line in details.splitlines()]
    short = shorten(message, MOST_MESSAGE)
    return Verdict(exercise.name, title, verdict, points, exercise.points, short, "\n".join(lines), cause)


def untouched(exercise: Exercise) -> Verdict:
    """The verdict on a function that still raises `NotImplementedError`."""
    message = f"{exercise.function} still raises NotImplementedError: write its body and remove the line with `raise`."
    return make(exercise, UNTOUCHED, message)


def inconclusive(exercise: Exercise, busy: str, details: str = "") -> Verdict:
    """The verdict if a time limit passed and other programs are to blame; `busy` is `BusyMachine.words`."""
    return make(exercise, INCONCLUSIVE, f"{AGAIN} {busy[0].upper()}{busy[1:]}.", details)


def ungraded(exercise: Exercise, why: str) -> Verdict:
    """The verdict if the grading machine failed. `why` is a part of a sentence that names the failure."""
    return make(exercise, UNGRADED, ended(f"The machine failed: {why}"))


def not_measured(exercise: Exercise, why: str) -> Verdict:
    """The verdict if the machine lacks something that the exercise needs. `why` begins with "needs"."""
    return make(exercise, NOT_MEASURED, f"This exercise {why}, which this machine does not have.")


def error_sentence(error: str, cause: str = "") -> str:
    """The sentence about an error of the learner's function; a known `cause` comes before the error."""
    text = f"{cause}. {error[0].upper()}{error[1:]}" if cause else error
    return ended(f"Your function did not finish: {text}")


def _failed(
    answer: KnownAnswer, case: Case, outcome: Outcome, right: Any, difference: Difference | None, known: Mistake | None
) -> Verdict:
    exercise = answer.exercise
    if difference:
        description = describe_difference(replace(difference, path=_place(answer, difference.path)))
        more = description.details
        message = known.message if known else _wrong(answer, case, outcome, right, difference, description.message)
    else:
        more = outcome.error if known else ""
        message = known.message if known else error_sentence(outcome.error, outcome.clue)
    return make(exercise, FAILED, message, details_of(exercise, case, outcome, more), "" if known else cause_of(outcome))


def cause_of(outcome: Outcome) -> str:
    """The value of `cause` in a verdict on this outcome: "error", "timed out", or "" if there was no error."""
    if not outcome.error:
        return ""
    return TIMED_OUT if outcome.error_kind == OutOfTimeError.__name__ else ERROR


def details_of(exercise: Exercise, case: Case, outcome: Outcome, more: str = "") -> str:
    """The details of a verdict: the case, `more` about the case, the function's output for the case, and how to get a hint."""
    printed = outcome.printed.splitlines()
    if len(printed) > MOST_PRINTED:
        printed = [f"... {len(printed) - MOST_PRINTED} more lines", *printed[-MOST_PRINTED:]]
    lines = [f"{_INPUT}{case.label}", *more.splitlines(), *(f"printed: {line}" for line in printed), _hint(exercise)]
    return "\n".join(lines)


def without_inputs(details: str) -> str:
    """The details of a verdict without the line that describes the input."""
    return "\n".join(line for line in details.splitlines() if not line.startswith(_INPUT))


def _explained(answer: KnownAnswer, case: Case, found: Any, right: Any) -> str:
    try:
        return answer.explain(case, found, right) if answer.explain else ""
    except Exception:  # an answer may be any object
        return ""


def _wrong(answer: KnownAnswer, case: Case, outcome: Outcome, right: Any, difference: Difference, plain: str) -> str:
    """The message about a wrong answer that is not a known mistake. `plain` describes the difference in general words."""
    seen = outcome.breach or outcome.clue
    if seen and difference.reason in ("value", "not finite"):
        return f"The result is not right, and {seen}."
    fits = isinstance(right, dict) or answer.any_length
    if difference.reason != "value" and not (difference.reason == "length" and fits):
        return plain
    if said := _explained(answer, case, outcome.value, right):
        return said
    if answer.words and difference.reason == "value":
        return answer.words(difference.found, difference.expected)
    return plain


def _place(answer: KnownAnswer, path: str) -> str:
    """A place in an answer. If the exercise has a name for the part, the name is used: "[1][0]" becomes "normed[0]"."""
    for known, name in answer.names.items():
        if path == known or path.startswith(f"{known}["):
            return name + path[len(known) :]
    return path


def _hint(exercise: Exercise) -> str:
    return f'a hint: hint("{exercise.function}")'


def _known_mistake(answer: KnownAnswer, runs: Mapping[int, Sequence[Outcome]]) -> Mistake | None:
    """The known mistake, or the combination of two, that gives the same answers as the learner's function to all cases."""
    return next((mistake for mistake in answer.known_mistakes() if _answers_alike(answer, mistake, runs)), None)


def _answers_alike(answer: KnownAnswer, mistake: Mistake, runs: Mapping[int, Sequence[Outcome]]) -> bool:
    exercise = answer.exercise
    for seed, outcomes in runs.items():
        for case, outcome in zip(exercise.cases(seed), outcomes, strict=False):
            theirs = call_and_observe(mistake.implementation, exercise, case)
            if bool(theirs.error) != bool(outcome.error) or theirs.error_kind != outcome.error_kind:
                return False
            if not outcome.error and _difference(answer, outcome.value, theirs.value):
                return False
    return True


def _difference(answer: KnownAnswer, found: Any, expected: Any) -> Difference | None:
    try:
        return answer.comparison.difference(found, expected)
    except Exception:  # a learner's function may return any object
        return Difference("", found, expected, "incomparable")
