"""The answer to exercise 2.10: reference, comparison and known mistakes."""

from __future__ import annotations

from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab02.capture import STEP_SECONDS


def step_seconds(kernel_seconds: list[float], launch_seconds: float, captured: bool) -> float:
    """The reference solution of exercise 2.10."""
    if captured:
        return launch_seconds + sum(kernel_seconds)
    done = 0.0
    for index, seconds in enumerate(kernel_seconds):
        done = max(done, (index + 1) * launch_seconds) + seconds
    return done


def _eager(change: Any) -> Any:
    """Make a function that is right for a captured step. For an uncaptured step it returns the wrong result of `change`."""
    return lambda kernels, launch, captured: step_seconds(kernels, launch, True) if captured else change(kernels, launch)


def _captured(change: Any) -> Any:
    return lambda kernels, launch, captured: change(kernels, launch) if captured else step_seconds(kernels, launch, False)


def _one_early(kernels: list[float], launch: float) -> float:
    done = 0.0
    for index, seconds in enumerate(kernels):
        done = max(done, index * launch) + seconds
    return done


def _in_microseconds(found: float, right: float) -> str:
    direction = "earlier" if found > right else "later"
    return f"Your answer is {1e6 * found:.4g} microseconds; the last kernel ends {direction}."


STEP_SECONDS_ANSWER = Answer(
    exercise=STEP_SECONDS,
    reference=step_seconds,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You add the launch times and the run times, but the host continues to launch kernels while kernels run.",
            _eager(lambda kernels, launch: launch * len(kernels) + sum(kernels)),
        ),
        Mistake(
            "You take the longer of the two sums (launch and run times), but the step can take even longer: each kernel also "
            "waits for its own launch. Go through the kernels one by one.",
            _eager(lambda kernels, launch: max(launch * len(kernels), sum(kernels))),
        ),
        Mistake("A captured step still needs one launch, but you count none.", _captured(lambda kernels, launch: sum(kernels))),
        Mistake(
            "You launch the kernels of a captured step one by one, but it has only one launch.",
            _captured(lambda kernels, launch: step_seconds(kernels, launch, False)),
        ),
        Mistake("The first kernel starts after its own launch, at 1 * launch_seconds: count i from 1.", _eager(_one_early)),
        Mistake(
            "You swapped the two cases of `captured`.",
            lambda kernels, launch, captured: step_seconds(kernels, launch, not captured),
        ),
        Mistake(
            "You take the longer of the two sums (launch and run times) in all cases. In a captured step, one launch comes "
            "first, and then all kernels run. In an uncaptured step, go through the kernels one by one.",
            lambda kernels, launch, captured: max(launch * (1 if captured else len(kernels)), sum(kernels)),
        ),
        Mistake("Launching takes time too, but you count only the kernels.", _eager(lambda kernels, launch: sum(kernels))),
    ),
    words=_in_microseconds,
)

ANSWERS = (STEP_SECONDS_ANSWER,)
