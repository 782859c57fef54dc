"""Exercise 2.10: how long launches take, and how much time a captured step saves."""

from __future__ import annotations

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab02.draws import Draws
from labkit.plurals import counted


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
        "is launched at $i \\cdot l$. It starts once it is launched and kernel $i-1$ has ended. Return the time at which the "
        "last kernel ends. A **captured** step has only one launch for all its kernels, which then run directly one after the "
        "other.\n\n$$d_i = \\max(d_{i-1},\\; i \\cdot l) + t_i \\qquad d_0 = 0$$"
    ),
    points=5,
    minutes=10,
    difficulty=2,
    cases=_cases,
    hints=(
        "Draw a time axis for the host and one for the device. What does a kernel wait for?",
        "Store the time at which the previous kernel ended. Each kernel starts at that time or when it is launched, whichever "
        "is later. In a captured step, only the first kernel waits for a launch.",
        "If kernels are counted from 0, the launch of kernel `index` is done at (index + 1) * launch_seconds.",
    ),
)
EXERCISES = (STEP_SECONDS,)
