"""Exercise 8.4: the time of an all-reduce over a link."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.plurals import counted


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [(12288 * 2, 8, 1e-6, 300e9), (12288 * 2, 1, 1e-6, 300e9), (256 * 128 * 12288 * 2, 8, 2e-6, 32e9)]
    rows += [
        (draw.randrange(10**3, 10**9), draw.choice([2, 3, 5, 6, 16]), draw.uniform(1e-6, 9e-6), 10 ** draw.uniform(9.5, 11.8))
        for _ in range(6)
    ]
    return [
        Case(
            f"{size:,} bytes, {counted(ranks, 'rank')}, a hop of {1e6 * hop:.2f} microseconds, {rate / 1e9:.1f} GB/s",
            (size, ranks, hop, rate),
        )
        for size, ranks, hop, rate in rows
    ]


ALL_REDUCE_MS = Exercise(
    name="lab08.all_reduce_ms",
    lab="08",
    number="8.4",
    title="An all-reduce over a link",
    function="all_reduce_ms",
    statement=(
        "`ranks` GPUs add up `size` bytes in a **ring**: `ranks - 1` steps to add, then as many to distribute the sums. In "
        "each step, every GPU sends one of `ranks` equal parts to its neighbour. A step takes `hop_seconds`, plus the time of "
        "its bytes at `bytes_per_second`. Return the **milliseconds** of the all-reduce."
    ),
    points=10,
    minutes=6,
    difficulty=2,
    core=True,
    cases=_cases,
    hints=(
        "How many steps follow one another, and how many bytes does a GPU send in one of them?",
        "There are twice ranks - 1 steps. A step sends one part of the tensor; its time is the latency of the link plus the "
        "transfer time of that part.",
        "step = hop_seconds + size / ranks / bytes_per_second",
    ),
)
EXERCISES = (ALL_REDUCE_MS,)
