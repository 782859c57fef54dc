"""Calling a learner's function on an exercise's cases: what came back, what it raised, what it changed, and a time-out."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.exercise import Case, Exercise

NOT_ATTEMPTED = "NotImplementedError"


@dataclass(frozen=True)
class Outcome:
    """One call: its value, or the error in one line (`error_kind` is the exception's name).

    `changed` names an argument that the call altered.
    """

    value: Any = None
    error: str = ""
    error_kind: str = ""
    changed: str = ""


class OutOfTimeError(Exception):
    """The time of an exercise is over."""


def run_cases(function: Callable[..., Any], exercise: Exercise, seed: int) -> list[Outcome]:
    """Call `function` on every case of the seed; never raises for anything the function does."""
    untouched = exercise.cases(seed)
    outcomes = []
    for case, original in zip(exercise.cases(seed), untouched, strict=True):
        outcome = call_and_observe(function, exercise, case)
        outcomes.append(outcome if outcome.error else Outcome(outcome.value, changed=_changed(case, original)))
        if outcome.error_kind in (NOT_ATTEMPTED, OutOfTimeError.__name__):
            break
    return outcomes


def call_and_observe(function: Callable[..., Any], exercise: Exercise, case: Case) -> Outcome:
    """Call `function` on one case; the value is what the exercise observes of it."""
    outcome = call(function, case, exercise.seconds)
    return outcome if outcome.error else Outcome(exercise.observe(case, outcome.value))


def call(function: Callable[..., Any], case: Case, seconds: float) -> Outcome:
    """Call `function` once with a case's arguments, for at most `seconds` where a timer can be set."""
    try:
        with _time_limit(seconds):
            return Outcome(function(*case.args, **case.kwargs))
    except OutOfTimeError:
        return Outcome(error=f"it ran for more than {seconds:g} seconds and was stopped", error_kind=OutOfTimeError.__name__)
    except (Exception, SystemExit) as error:  # whatever the learner's code raises is its own
        return Outcome(error=_in_words(error), error_kind=type(error).__name__)


def _in_words(error: BaseException) -> str:
    """The last line of the learner's own traceback: where it happened, and what."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/labkit/" not in f.filename.replace("\\", "/")] or []
    place = f" (line {own[-1].lineno} of your cell: {own[-1].line})" if own and own[-1].line else ""
    text = str(error).splitlines()
    return f"it raised {type(error).__name__}: {text[0] if text else 'no message'}{place}"


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in this block after `seconds`; only the main thread of a Unix process can be interrupted."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _changed(case: Case, original: Case) -> str:
    """The first argument that is no longer what it was; plain values and tensors are looked at."""
    for index, (now, before) in enumerate(zip(case.args, original.args, strict=True)):
        if not _same(now, before):
            return f"argument {index + 1}"
    return next((f"argument {name!r}" for name, now in case.kwargs.items() if not _same(now, original.kwargs[name])), "")


def _same(now: Any, before: Any) -> bool:
    if isinstance(before, Tensor):
        return isinstance(now, Tensor) and now.shape == before.shape and torch.equal(now, before)
    if isinstance(before, list | tuple):
        return len(now) == len(before) and all(map(_same, now, before))
    if isinstance(before, dict):
        return set(now) == set(before) and all(_same(now[key], value) for key, value in before.items())
    return bool(now == before) if isinstance(before, int | float | str | bytes | None.__class__) else True
