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
    """The reference of exercise 8.3."""
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
    never: bool = True,
    whole: Callable[[float], float] = float,
) -> float | None:
    """The batch, with an option for each part. A known mistake sets some options to wrong values."""
    weights = parameters if counted else weight_bytes
    ratio = flops_per_second / bytes_per_second if swapped else bytes_per_second / flops_per_second
    rest = flops * parameters * ratio
    if cache == "of each sequence":
        rest -= cache_bytes
    elif cache == "added":
        rest += cache_bytes
    elif cache == "once":
        weights += cache_bytes
    if rest <= 0 and never:
        return None
    return whole(weights / rest) if rest else 0.0


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
        Mistake("Each sequence has a cache of its own; you read one cache for all.", partial(_turning, cache="once")),
        Mistake("You count the weights, but their bytes are read.", partial(_turning, counted=True)),
        Mistake(
            "The two rates are swapped: a device that computes faster needs a larger batch.",
            partial(_turning, swapped=True),
        ),
        Mistake(
            "If a sequence takes longer to read than to compute, no batch is enough, and the answer is None. Yours is a number.",
            partial(_turning, never=False),
        ),
        Mistake("You round; return the number with its fraction.", partial(_turning, whole=math.ceil)),
        Mistake("You cut the fraction off; return the number with its fraction.", partial(_turning, whole=math.floor)),
    ),
)
ANSWERS = (TURNING_BATCH_ANSWER,)
