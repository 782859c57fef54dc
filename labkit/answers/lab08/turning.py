"""The answer to exercise 8.3: reference, comparison and known mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab08.turning import TURNING_BATCH


def turning_batch(
    parameters: int, weight_bytes: int, cache_bytes: int, flops_per_second: float, bytes_per_second: float
) -> float | None:
    """The reference solution of exercise 8.3."""
    return _turning(parameters, weight_bytes, cache_bytes, flops_per_second, bytes_per_second)


def _turning(
    parameters: int,
    weight_bytes: int,
    cache_bytes: int,
    flops_per_second: float,
    bytes_per_second: float,
    *,
    flops: int = 2,
    cache: str = "of each sequence",
    counted: bool = False,
    swapped: bool = False,
    never: str = "None",
    whole: Callable[[float], float] = float,
) -> float | None:
    """Return the batch size. There is an option for each step of the calculation; a known mistake sets some to wrong values.

    `never` says when the result is None, because there is no such batch size: with "None", if the rest is 0 or negative; with
    "below 0", only if the rest is negative; with "at 0", only if the rest is 0.
    """
    weights = parameters if counted else weight_bytes
    ratio = flops_per_second / bytes_per_second if swapped else bytes_per_second / flops_per_second
    rest = flops * parameters * ratio
    if cache == "of each sequence":
        rest -= cache_bytes
    elif cache == "added":
        rest += cache_bytes
    elif cache == "once":
        weights += cache_bytes
    if {"None": rest <= 0, "below 0": rest < 0, "at 0": rest == 0}.get(never, False):
        return None
    return 0.0 if never == "zero" and not rest else whole(weights / rest)


TURNING_BATCH_ANSWER = Answer(
    exercise=TURNING_BATCH,
    reference=turning_batch,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "A multiplication and an addition for each parameter are 2 FLOPs; you count 1.",
            partial(_turning, flops=1),
        ),
        Mistake("The cache is missing: it is read for each sequence.", partial(_turning, cache="none")),
        Mistake(
            "Reading the cache takes time, so the batch must be larger than without it; your sign makes it smaller.",
            partial(_turning, cache="added"),
        ),
        Mistake("Each sequence has its own cache; you read one cache for all.", partial(_turning, cache="once")),
        Mistake("You count the weights, but their bytes are read.", partial(_turning, counted=True)),
        Mistake(
            "The two rates are swapped: a device that computes faster needs a larger batch.",
            partial(_turning, swapped=True),
        ),
        Mistake(
            "If a sequence takes longer to read than to compute, no batch is large enough: return None. You return a number.",
            partial(_turning, never="zero"),
        ),
        Mistake(
            "If a sequence takes at least as long to read as to compute, no batch is large enough: return None before "
            "you divide.",
            partial(_turning, never="divides"),
        ),
        Mistake(
            "If reading a sequence takes exactly as long as computing, no batch is large enough either: return None, "
            "do not divide.",
            partial(_turning, never="below 0"),
        ),
        Mistake(
            "You return None only if both times of a sequence are equal. If reading takes longer, no batch is large "
            "enough either.",
            partial(_turning, never="at 0"),
        ),
        Mistake("You round; return the number with its fraction.", partial(_turning, whole=math.ceil)),
        Mistake("You cut off the fraction; return the number with its fraction.", partial(_turning, whole=math.floor)),
    ),
)
ANSWERS = (TURNING_BATCH_ANSWER,)
