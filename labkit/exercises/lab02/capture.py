"""Exercise 2.10: how long launching takes, and how much time a captured step saves."""

from __future__ import annotations

from typing import Any

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab02.draws import Draws
from labkit.plurals import counted


def step_seconds(kernel_seconds: list[float], launch_seconds: float, captured: bool) -> float:
    """The reference of exercise 2.10."""
    if captured:
        return launch_seconds + sum(kernel_seconds)
    done = 0.0
    for index, seconds in enumerate(kernel_seconds):
        done = max(done, (index + 1) * launch_seconds) + seconds
    return done


def _eager(change: Any) -> Any:
    """A function that is right for a captured step and wrong for an uncaptured step."""
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


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed).pick
    cases = []
    for count, low, high in ((1, 1.0, 9.0), (40, 1.0, 4.0), (30, 8.0, 30.0), (draws.randrange(50, 200), 1.0, 15.0)):
        kernels = [1e-6 * draws.uniform(low, high) for _ in range(count)]
        launch = 1e-6 * draws.uniform(4.5, 7.5)
        for captured in (False, True):
            words = "captured" if captured else "launched one by one"
            cases.append(Case(f"{counted(count, 'kernel')} of {low:g} to {high:g} us, {words}", (kernels, launch, captured)))
    return cases


STEP_SECONDS = Exercise(
    name="lab02.step_seconds",
    lab="02",
    number="2.10",
    title="What a captured step saves",
    function="step_seconds",
    statement=(
        "Each launch takes the host `launch_seconds` ($l$); the host does not wait for kernels. Kernel $i$ (counted from 1) "
        "is launched at $i \\cdot l$. It starts when it is launched and kernel $i-1$ has ended. Return the time at which the "
        "last kernel ends. A **captured** step has only one launch for all its kernels, which then run one directly after the "
        "other.\n\n$$d_i = \\max(d_{i-1},\\; i \\cdot l) + t_i \\qquad d_0 = 0$$"
    ),
    points=5,
    minutes=10,
    difficulty=2,
    cases=_cases,
    reference=step_seconds,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You add the launching and the running times, but the host goes on launching while kernels run.",
            _eager(lambda kernels, launch: launch * len(kernels) + sum(kernels)),
        ),
        Mistake(
            "You take the longer of the two sums (launching and running), but the step can take even longer: each kernel also "
            "waits for its own launch. Go kernel by kernel.",
            _eager(lambda kernels, launch: max(launch * len(kernels), sum(kernels))),
        ),
        Mistake("A captured step still needs one launch, but you count none.", _captured(lambda kernels, launch: sum(kernels))),
        Mistake(
            "You launch the kernels of a captured step one by one, but it has only one launch.",
            _captured(lambda kernels, launch: step_seconds(kernels, launch, False)),
        ),
        Mistake("The first kernel starts after its own launch, at 1 * launch_seconds: count i from 1.", _eager(_one_early)),
        Mistake(
            "You exchanged the two cases of `captured`.",
            lambda kernels, launch, captured: step_seconds(kernels, launch, not captured),
        ),
        Mistake(
            "You take the longer of the two sums (launching and running) in all cases. In a captured step, one launch comes "
            "first, and then all kernels run. In an uncaptured step, go through the kernels one by one.",
            lambda kernels, launch, captured: max(launch * (1 if captured else len(kernels)), sum(kernels)),
        ),
        Mistake("Launching takes time too, but you count only the kernels.", _eager(lambda kernels, launch: sum(kernels))),
    ),
    hints=(
        "Draw a time axis for the host and one for the device. What does a kernel wait for?",
        "Store the time at which the previous kernel ended. Each kernel starts at that time or when it is launched, whichever "
        "is later. In a captured step, only the first kernel waits for a launch.",
        "If kernels are counted from 0, the launch of kernel `index` is done at (index + 1) * launch_seconds.",
    ),
    words=_in_microseconds,
)

EXERCISES = (STEP_SECONDS,)
