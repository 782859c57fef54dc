"""The answer to exercise 5.8: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab05.gptq import GPTQ_COLUMN


def gptq_column(weight: Tensor, factor: Tensor, column: int, scales: Tensor, bits: int) -> Tensor:
    """The reference solution of exercise 5.8."""
    return _column(weight, factor, column, scales, bits)


def _column(
    weight: Tensor,
    factor: Tensor,
    column: int,
    scales: Tensor,
    bits: int,
    *,
    clip: bool = True,
    divide: bool = True,
    sign: int = 1,
    compensate: bool = True,
    replace: bool = True,
    integers: bool = False,
    twice: bool = False,
) -> Tensor:
    """Round one column, and change the later columns to compensate for the error. Options make the known mistakes."""
    new = weight.clone()
    rounded = (weight[:, column] / scales).round()
    rounded = rounded.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if clip else rounded
    q = rounded * scales
    error = (weight[:, column] - q) / (factor[column, column] if divide else 1.0)
    if compensate:
        first = column + 1
        new[:, first:] -= sign * error[:, None] * factor[column, first:]
    if replace:
        new[:, column] = rounded if integers else q
    if twice:
        new[:, column] -= weight[:, column] - q
    return new


GPTQ_COLUMN_ANSWER = Answer(
    exercise=GPTQ_COLUMN,
    reference=gptq_column,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "After rounding, clip the integers to the lowest and highest integer of this many bits; with 4 bits: -8 and 7.",
            partial(_column, clip=False),
        ),
        Mistake("Divide the error by the diagonal element of the factor, U[j, j].", partial(_column, divide=False)),
        Mistake("You add the error; the later columns must change in the other direction.", partial(_column, sign=-1)),
        Mistake(
            "You change only column j. The later columns must compensate for its error; row j of the factor says how "
            "much (below "
            "its diagonal, the factor is 0).",
            partial(_column, compensate=False),
        ),
        Mistake(
            "The later columns are right, but column j keeps its old numbers; put q there.", partial(_column, replace=False)
        ),
        Mistake(
            "You store the integers in the column; store the numbers that they stand for, integer times scale.",
            partial(_column, integers=True),
        ),
        Mistake(
            "The later columns are right, but you also subtract the error from column j, where q already is: begin at j + 1.",
            partial(_column, twice=True),
        ),
    ),
)
ANSWERS = (GPTQ_COLUMN_ANSWER,)
