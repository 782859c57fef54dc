"""The answer to exercise 5.7: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab05.smooth import SMOOTH


def smooth(weight: Tensor, largest: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The reference solution of exercise 5.7."""
    return _smooth(weight, largest, alpha)


def _smooth(
    weight: Tensor,
    largest: Tensor,
    alpha: float,
    *,
    divides: bool = False,
    exchanged: bool = False,
    upside_down: bool = False,
    guard: bool = True,
    magnitude: bool = True,
    only_inputs: bool = False,
    unchanged: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the factors and the new weight. Options make the known mistakes."""
    columns = weight.abs().amax(0) if magnitude else weight.amax(0)
    power = 1 - alpha if exchanged else alpha
    factors = largest.pow(power) if only_inputs else largest.pow(power) / columns.pow(1 - power)
    if upside_down:
        factors = 1 / factors
    if guard:
        factors = torch.where((largest == 0) | (weight.abs().amax(0) == 0), torch.ones_like(factors), factors)
    new = weight if unchanged else weight / factors if divides else weight * factors
    return factors, new


SMOOTH_ANSWER = Answer(
    exercise=SMOOTH,
    reference=smooth,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The inputs are divided by the factors, so the columns of the weight must be multiplied.",
            partial(_smooth, divides=True),
        ),
        Mistake("You swapped alpha and 1 - alpha: a large alpha moves more into the weight.", partial(_smooth, exchanged=True)),
        Mistake(
            "Your factors are upside down: an input with large numbers needs a large factor.",
            partial(_smooth, upside_down=True),
        ),
        Mistake("Where the input or the column is always 0, the factor must be 1.", partial(_smooth, guard=False)),
        Mistake(
            "Take the largest magnitude of each column; a negative number may be the largest.",
            partial(_smooth, magnitude=False),
        ),
        Mistake("The magnitudes of the weight's columns are missing from your formula.", partial(_smooth, only_inputs=True)),
        Mistake("You return the old weight; multiply its columns by the factors.", partial(_smooth, unchanged=True)),
    ),
    names={"[0]": "factors", "[1]": "new_weight"},
)
ANSWERS = (SMOOTH_ANSWER,)
