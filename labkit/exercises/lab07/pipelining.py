"""Exercise 7.6: compute how many requests per second a model can answer if it is split into parts."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.plurals import counted


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for label, parts, users, cores in (
        ("the users limit", 3, 1, 8),
        ("the slowest part limits", 3, 20, 8),
        ("the cores limit", 4, 20, 2),
        ("one part", 1, 5, 4),
    ):
        for _ in range(2):
            seconds = [draw.uniform(0.004, 0.01) for _ in range(parts)]
            if label == "the slowest part limits":
                seconds[draw.randrange(parts)] *= 2.5
            latency = sum(seconds) + draw.uniform(0.002, 0.006)
            words = f"{label}: {counted(parts, 'part')}, {counted(users, 'user')}, {cores} cores, {1e3 * latency:.2f} ms alone"
            cases.append(Case(words, (seconds, latency, users, cores)))
    return cases


PIPELINED_RATE = Exercise(
    name="lab07.pipelined_rate",
    lab="07",
    number="7.6",
    title="Predict the pipeline",
    function="pipelined_rate",
    statement=(
        "A request passes through the parts of a model one after another. Part k computes for `seconds[k]`, on one core, and "
        "then takes the next request. A request that is alone on the server has its answer after `latency` seconds. Each of "
        "`users` users waits for an answer before the next request. All parts share `cores` cores. Each of the three (users, "
        "parts, cores) limits the requests per second; return the lowest of these limits."
    ),
    points=10,
    minutes=6,
    difficulty=2,
    core=True,
    cases=_cases,
    hints=(
        "How many requests per second can a single user send? How many can a single part take? And how many core-seconds does "
        "a request need?",
        "A user sends at most one request in each latency. Of the parts, the slowest one decides. A request needs the seconds of "
        "all parts together, and the cores deliver one second of work each, every second.",
        "The users allow users / latency, the parts allow 1 / max(seconds); the limit of the cores has the same form.",
    ),
)
EXERCISES = (PIPELINED_RATE,)
