"""Calls a learner's function with the cases of an exercise, under a time limit. Records what the function returned, raised or
changed.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from torch import Tensor

from labkit.errors import NotAvailable
from labkit.exercises.case import Case, directly, own_error, own_line
from labkit.exercises.contracts import Watch
from labkit.exercises.error_advice import advice_on, line_of
from labkit.exercises.exercise import Exercise
from labkit.exercises.kernel_misuse import KernelMisuse
from labkit.exercises.kernels import prepare
from labkit.grading.shorten import shorten
from labkit.measure.busy_machine import BusyMachine
from labkit.time_limits import limit_passed

NOT_ATTEMPTED = "NotImplementedError"
_ENDING = (NOT_ATTEMPTED, "OutOfTimeError", "RankFailed")
"""After one of these errors, no further case is tried, because the same error would occur again, or take as long again."""
Progress = Callable[[int, int], object]
_PLAIN = (Tensor, list, tuple, dict, int, float, str, bytes, type(None))


@dataclass(frozen=True)
class Outcome:
    """The outcome of one call: its value, or its error in one line (`error_kind` is the name of the exception).

    `changed` names an argument that the function changed although it must not. `breach` says which rule of the exercise's
    contract the call broke. `clue` is a possible explanation of a wrong value or an error. If a time limit passed during the
    call and other programs are to blame, `busy` says so (see `BusyMachine`). `printed` is the function's output that has not
    been shown yet.
    """

    value: Any = None
    error: str = ""
    error_kind: str = ""
    changed: str = ""
    breach: str = ""
    clue: str = ""
    busy: str = ""
    printed: str = ""


class OutOfTimeError(BaseException):
    """The time limit has passed.

    The class is not derived from `Exception`, so an `except Exception` in a learner's loop does not catch it.
    """


def run_seeds(
    function: Callable[..., Any],
    exercise: Exercise,
    seeds: Sequence[int],
    progress: Progress | None = None,
    *,
    aloud: bool = False,
) -> dict[int, list[Outcome]]:
    """Call `function` with the cases of each seed, while the exercise's contracts watch. `progress` is called after each case.

    If the function is a stub, or a call takes too long, the later seeds are not tried. The function's output is not shown,
    because it would appear once for each case. If `aloud` is true, the output for the very first case is shown.
    """
    runs: dict[int, list[Outcome]] = {}
    if "triton" in exercise.requires:
        with contextlib.suppress(NotAvailable):  # The launch of a kernel raises this error again, with a message.
            prepare()
    for index, seed in enumerate(seeds):
        steps = (lambda done, of, before=index: progress(before * of + done, len(seeds) * of)) if progress else None
        runs[seed] = run_cases(function, exercise, seed, watched=True, progress=steps, aloud=aloud and index == 0)
        if any(_is_last(outcome, exercise) for outcome in runs[seed]):
            break
    return runs


def _is_last(outcome: Outcome, exercise: Exercise) -> bool:
    """Whether the case with this outcome is the last one, so no further case is tried."""
    if not outcome.error and decided(exercise, outcome.value):
        return True
    return outcome.busy != "" or outcome.error_kind in _ENDING or (exercise.ends_at_error and outcome.error != "")


def decided(exercise: Exercise, value: Any) -> str:
    """The sentence that `exercise.decides` returns for an answer. The answer may be any object."""
    try:
        return exercise.decides(value)
    except Exception:
        return ""


def run_cases(
    function: Callable[..., Any],
    exercise: Exercise,
    seed: int,
    *,
    watched: bool = False,
    progress: Progress | None = None,
    aloud: bool = False,
) -> list[Outcome]:
    """Call `function` with every case of a seed. If the function raises an exception, the exception becomes an outcome.

    The function's output is not shown; if `aloud` is true, the output for the first case is shown.
    """
    untouched = exercise.cases(seed)
    outcomes: list[Outcome] = []
    for case, original in zip(exercise.cases(seed), untouched, strict=True):
        with contextlib.nullcontext() if aloud and not outcomes else held_back() as held:
            outcome = call_and_observe(function, exercise, case, watched=watched)
        outcome = replace(outcome, printed=held.getvalue() if held else "")
        if not outcome.error:
            outcome = replace(outcome, changed=_changed(case, original, exercise.writes, _names_of(function)))
        outcomes.append(outcome)
        if progress:
            progress(len(outcomes), len(untouched))
        if _is_last(outcome, exercise):
            break
    return outcomes


@contextlib.contextmanager
def held_back() -> Iterator[io.StringIO]:
    """Collect the output of this block instead of showing it.

    If an exception ends the block, the output is printed after all.
    """
    held = io.StringIO()
    try:
        with contextlib.redirect_stdout(held):
            yield held
    except BaseException:
        sys.stdout.write(held.getvalue())
        raise


def call_and_observe(function: Callable[..., Any], exercise: Exercise, case: Case, *, watched: bool = False) -> Outcome:
    """Call `function` with one case, `watched` by the exercise's contracts. The outcome's value is the return value of the
    exercise's `observe`.

    Only the outcome of a watched call can have `busy` set.
    """
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(contract.watch(case, function)) for contract in exercise.contracts() if watched]
        with BusyMachine() if watched else contextlib.nullcontext() as machine:
            outcome = call(function, case, exercise.seconds, exercise.run, exercise.prepare)
    busy = machine.words if machine else ""
    if outcome.error:
        cause = next(filter(None, (watch.clue_to_error(outcome.error_kind) for watch in watches)), "")
        return replace(outcome, busy=busy, clue=cause)
    breach = next(filter(None, (_breach(watch, outcome.value) for watch in watches)), "")
    clue = next(filter(None, (watch.clue() for watch in watches)), "")
    try:
        return Outcome(exercise.observe(case, outcome.value), breach=breach, clue=clue, busy=busy)
    except Exception as error:  # The function may have put anything into its arguments.
        return Outcome(
            error=f"the values that it stored in its arguments cannot be read: {shorten(str(error))}",
            error_kind=type(error).__name__,
        )


def _breach(watch: Watch, value: Any) -> str:
    try:
        return watch.breach(value)
    except Exception as error:  # The value has a wrong form.
        return f"its answer has a form that cannot be compared with what the function did ({type(error).__name__})"


def call(
    function: Callable[..., Any],
    case: Case,
    seconds: float,
    run: Callable[[Callable[..., Any], Case], Any] = directly,
    prepare: Callable[[Case], object] = lambda case: None,
) -> Outcome:
    """Call `function` once with the arguments of a case. The time limit `seconds` applies where a timer can be set.

    `prepare` is called first, without the limit.

    A `KeyboardInterrupt` is raised again, because the learner uses it to stop the check.
    """
    try:
        prepare(case)
        with time_limit(seconds):
            return Outcome(run(function, case))
    except OutOfTimeError:
        return Outcome(error=f"it ran for more than {seconds:g} seconds and was stopped", error_kind=OutOfTimeError.__name__)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # A learner's code may raise anything.
        error = own_error(raised)
        return Outcome(error=_in_words(error, function), error_kind=type(error).__name__)


def _in_words(error: BaseException, function: Callable[..., Any]) -> str:
    """The error in words, with the last line in the traceback that belongs to the learner's own function."""
    own = own_line(error, function)
    place = f" (in your line `{own}`)" if own else ""
    said = shorten(line_of(error)) or "no message"
    if isinstance(error, KernelMisuse):
        return f"{said}{shorten(place)}"
    advice = advice_on(error)
    return f"it raised {shorten(type(error).__name__, 60)}: {said}{advice and f'; {advice}'}{shorten(place)}"


@contextlib.contextmanager
def time_limit(seconds: float, what: str = "your function") -> Iterator[None]:
    """Raise `OutOfTimeError` in this block after `seconds`. This works only in the main thread of a Unix process.

    `what` names the code in the block, as the subject of a sentence such as "your function did not finish". That sentence is
    passed to `limit_passed`.

    The error is raised again every second, because a bare `except:` in a loop may catch the first error.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    is_first = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            signal.setitimer(signal.ITIMER_REAL, 0)  # on a busy machine `limit_passed` can take longer than a second
            limit_passed(f"{what} did not finish within {seconds:g} seconds")
            signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _names_of(function: Callable[..., Any]) -> list[str]:
    """The names of a function's positional parameters; empty if Python does not know them."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each.name for each in found if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _changed(case: Case, original: Case, writes: Sequence[int], names: Sequence[str]) -> str:
    """The first argument that the call changed, except the arguments in `writes`. `names` are the function's parameters.

    Only plain values and tensors are compared.
    """
    for index, (now, before) in enumerate(zip(case.args, original.args, strict=True)):
        if index not in writes and not _same(now, before):
            return f"argument {names[index]!r}" if index < len(names) else f"argument {index + 1} (counted from 1)"
    return next((f"argument {name!r}" for name, now in case.kwargs.items() if not _same(now, original.kwargs[name])), "")


def _same(now: Any, before: Any) -> bool:
    if isinstance(before, _PLAIN) and type(now) is not type(before):
        return False
    if isinstance(before, Tensor):
        alike = now.shape == before.shape and now.dtype == before.dtype
        return alike and bool(((now == before) | (now.isnan() & before.isnan())).all())
    if isinstance(before, list | tuple):
        return len(now) == len(before) and all(map(_same, now, before))
    if isinstance(before, dict):
        return set(now) == set(before) and all(_same(now[key], value) for key, value in before.items())
    return not isinstance(before, _PLAIN) or bool(now == before or (now != now and before != before))
