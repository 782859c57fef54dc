"""The answer to exercise 5.1: reference, comparison and known mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab05.parameters import QUANTIZATION_PARAMETERS


def quantization_parameters(low: float, high: float, bits: int, symmetric: bool) -> tuple[float, float]:
    """The reference solution of exercise 5.1."""
    return _parameters(low, high, bits, symmetric)


def _parameters(
    low: float,
    high: float,
    bits: int,
    symmetric: bool,
    *,
    above: int = 0,
    by_high: bool = False,
    cells: int = 0,
    widen: bool = True,
    first: int | None = None,
    sign: int = -1,
    whole: Callable[[float], float] = round,
    guard: bool = True,
) -> tuple[float, float]:
    """Return the scale and the zero point. Options make the known mistakes.

    `above` and `cells` are added to the number of steps (of the symmetric and of the asymmetric case), `first` is the lowest
    integer, and `whole` makes the zero point an integer.
    """
    if symmetric:
        scale = (high if by_high else max(abs(low), abs(high))) / (2 ** (bits - 1) - 1 + above)
        return scale or float(guard), 0
    if widen:
        low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1 + cells)
    scale = scale or float(guard)
    zero = (-(2 ** (bits - 1)) if first is None else first) + sign * low / scale
    return scale, whole(zero)


QUANTIZATION_PARAMETERS_ANSWER = Answer(
    exercise=QUANTIZATION_PARAMETERS,
    reference=quantization_parameters,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "Symmetric: the highest integer is 127 for 8 bits; you divide by one more.",
            partial(_parameters, above=1),
        ),
        Mistake(
            "Symmetric: `low` may have the largest magnitude; you look only at `high`.",
            partial(_parameters, by_high=True),
        ),
        Mistake(
            "Asymmetric: 2^bits integers have 2^bits - 1 steps between them; you divide by 2^bits.",
            partial(_parameters, cells=1),
        ),
        Mistake(
            "Asymmetric: 0 must be in the range, because it must be stored without an error; widen the range first.",
            partial(_parameters, widen=False),
        ),
        Mistake(
            "Your zero point is for integers from 0 to 2^bits - 1, but the integers begin below 0: at -128 for 8 bits.",
            partial(_parameters, first=0),
        ),
        Mistake(
            "The sign of low / scale is wrong: low / scale + zero_point must be the lowest integer.",
            partial(_parameters, sign=1),
        ),
        Mistake("The zero point is an integer: round it.", partial(_parameters, whole=float)),
        Mistake("Your zero point is truncated: `int` drops the fraction. Round it.", partial(_parameters, whole=int)),
        Mistake("Your zero point is rounded down. Round it to the nearest integer.", partial(_parameters, whole=math.floor)),
        Mistake(
            "If all numbers are 0, the scale must be 1.0; your scale is 0, and nothing can be divided by it.",
            lambda low, high, b, s: (
                quantization_parameters(low, high, b, s)[0] * bool(low or high),
                quantization_parameters(low, high, b, s)[1],
            ),
        ),
        Mistake(
            "If all numbers are 0, your function divides by a scale of 0; in this case the scale must be 1.0.",
            partial(_parameters, guard=False),
        ),
        Mistake(
            "You treat an asymmetric range like a symmetric one.",
            lambda low, high, bits, symmetric: quantization_parameters(low, high, bits, True),
        ),
    ),
    names={"[0]": "scale", "[1]": "zero_point"},
)
ANSWERS = (QUANTIZATION_PARAMETERS_ANSWER,)
