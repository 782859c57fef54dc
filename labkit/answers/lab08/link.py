"""The answer to exercise 8.4: reference, comparison and known mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab08.link import ALL_REDUCE_MS
from labkit.planning.collectives import ring_seconds


def all_reduce_ms(size: int, ranks: int, hop_seconds: float, bytes_per_second: float) -> float:
    """The reference solution of exercise 8.4: the formula of labkit's planner."""
    return 1e3 * ring_seconds(size, ranks, bytes_per_second=bytes_per_second, hop_seconds=hop_seconds)


def _ring(
    size: int,
    ranks: int,
    hop_seconds: float,
    bytes_per_second: float,
    *,
    steps: Callable[[int], int] = lambda ranks: 2 * (ranks - 1),
    part: Callable[[int], int] = lambda ranks: ranks,
    hops: Callable[[int], int] | None = None,
    units: float = 1e3,
) -> float:
    """Return the milliseconds of an all-reduce. There is an option for each part of the formula.

    `hops` returns how many times the latency of a hop counts; without `hops`, it counts once in each step.
    """
    count = steps(ranks)
    waits = count if hops is None else hops(ranks)
    return units * (waits * hop_seconds + count * size / part(ranks) / bytes_per_second)


ALL_REDUCE_MS_ANSWER = Answer(
    exercise=ALL_REDUCE_MS,
    reference=all_reduce_ms,
    comparison=Comparison(),
    mistakes=(
        Mistake("That is seconds; return milliseconds.", partial(_ring, units=1.0)),
        Mistake(
            "You count only the steps that add; just as many steps distribute the sums.",
            partial(_ring, steps=lambda ranks: ranks - 1, hops=None),
        ),
        Mistake("In a step, a GPU sends one part of the tensor; you send all of it.", partial(_ring, part=lambda ranks: 1)),
        Mistake(
            "The latency counts in every step: each step waits for the previous one. You count it once.",
            partial(_ring, hops=lambda ranks: int(ranks > 1)),
        ),
        Mistake(
            "The latency counts in every step. You count it once, even for a single GPU, which has no step at all.",
            partial(_ring, hops=lambda ranks: 1),
        ),
        Mistake(
            "The latency counts in every step; you count it once for the sums and once for distributing them.",
            partial(_ring, hops=lambda ranks: 2 * (ranks > 1)),
        ),
        Mistake("The latency of the link is missing.", partial(_ring, hops=lambda ranks: 0)),
        Mistake(
            "You have one step too many in each half: the first part that arrives has already been counted.",
            partial(_ring, steps=lambda ranks: 2 * ranks, hops=None),
        ),
        Mistake(
            "You wait in every step, but you send only one part in all steps together.",
            lambda size, ranks, hop, rate: 1e3 * (2 * (ranks - 1) * hop + (ranks > 1) * size / ranks / rate),
        ),
    ),
)
ANSWERS = (ALL_REDUCE_MS_ANSWER,)
