"""Exercise 7.7: choose the compiler that is worth the time that it takes to compile."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise

NAMES = ("eager", "compiled", "runtime", "runtime int8", "engine")


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for number in range(3):
        begin = [0.0, *sorted(draw.uniform(1, 60) for _ in NAMES[1:])]
        step = sorted((draw.uniform(0.5, 9) for _ in NAMES), reverse=True)
        error = [10 ** -draw.uniform(4, 7) for _ in NAMES]
        error[-1] = draw.uniform(0.02, 0.3)
        table = {name: (begin[k], step[k] / 1e3, error[k]) for k, name in enumerate(draw.sample(NAMES, len(NAMES)))}
        for steps, most in ((1, 1e-3), (draw.randrange(5_000, 20_000), 1e-3), (10**7, error[-1]), (10**7, 1e-3), (10**6, 1e-9)):
            cases.append(
                Case(
                    f"table {number + 1}, {steps:,} step{'s' * (steps > 1)}, an error of at most {most:.2g}",
                    (table, steps, most),
                )
            )
    return cases


CHOOSE_COMPILER = Exercise(
    name="lab07.choose_compiler",
    lab="07",
    number="7.7",
    title="Choose a compiler",
    function="choose_compiler",
    statement=(
        "`table` maps the name of each way to run a model to `(compile_seconds, step_seconds, error)`. A server starts, compiles, "
        "and runs `steps` steps. Of the ways whose error is at most `most_error`, return the name of the one that finishes "
        "first; None if there is none."
    ),
    points=6,
    minutes=4,
    difficulty=1,
    core=True,
    cases=_cases,
    hints=(
        "How many seconds does one way take for everything?",
        "Leave out what is not exact enough. For each of the others, add the time to compile and the time of all steps, and take "
        "the name with the smallest sum.",
        "With a dictionary `totals` of name and seconds, the name is min(totals, key=totals.get), if `totals` is not empty.",
    ),
)
EXERCISES = (CHOOSE_COMPILER,)
