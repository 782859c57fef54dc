"""The answer to exercise 5.4: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab05.weights import QUANTIZE_WEIGHT


def quantize_weight(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """The reference solution of exercise 5.4."""
    return _quantize(weight, bits, group_size)


def _quantize(
    weight: Tensor,
    bits: int,
    group_size: int,
    *,
    above: int = 0,
    over: str = "group",
    magnitude: bool = True,
    rounded: bool = True,
    guard: float = 1.0,
    upside_down: bool = False,
    dense: bool = False,
    clipped: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the integers and the scales. Options make the known mistakes.

    `over` says which numbers share a scale, and `guard` is the scale of a group in which all numbers are 0. If `clipped` is
    false, integers that do not fit into int8 wrap around when they are converted.
    """
    highest = 2 ** (bits - 1) - 1 + above
    groups = weight.reshape(len(weight), -1, group_size)
    sizes = groups.abs() if magnitude else groups
    largest = sizes.amax(-1)
    if over == "row":
        largest = largest.amax(1, keepdim=True).expand_as(largest)
    elif over == "tensor":
        largest = largest.amax().expand_as(largest)
    elif over == "column":
        largest = largest.amax(0, keepdim=True).expand_as(largest)
    scales = largest.clone() / highest
    scales[scales == 0] = guard
    numbers = groups / scales[..., None]
    integers = numbers.round() if rounded else numbers.trunc()
    integers = integers.nan_to_num(0.0)
    integers = integers.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if clipped else integers
    if dense:
        return (integers * scales[..., None]).flatten(1), scales
    return integers.to(torch.int8).flatten(1), 1 / scales if upside_down else scales


def _last_dimension(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Wrong: the numbers of a group are not neighbours in a row, but `in / group_size` columns apart."""
    strided = weight.reshape(len(weight), group_size, -1).transpose(1, 2).flatten(1)
    integers, scales = quantize_weight(strided, bits, group_size)
    return integers.view(len(weight), -1, group_size).transpose(1, 2).flatten(1), scales


QUANTIZE_WEIGHT_ANSWER = Answer(
    exercise=QUANTIZE_WEIGHT,
    reference=quantize_weight,
    comparison=Comparison(),
    mistakes=(
        Mistake("The highest integer is 7 for 4 bits. You divide by one more.", partial(_quantize, above=1)),
        Mistake(
            "The highest integer is 127 for 8 bits. You divide by one more, so the largest number becomes 128, too "
            "large for int8.",
            partial(_quantize, above=1, clipped=False),
        ),
        Mistake("All groups of a row share a scale; each group has a scale of its own.", partial(_quantize, over="row")),
        Mistake(
            "The whole tensor shares one scale; each group of each row has a scale of its own.",
            partial(_quantize, over="tensor"),
        ),
        Mistake(
            "All rows share the scale of a group; take the maximum over the neighbours in a row, not over the rows.",
            partial(_quantize, over="column"),
        ),
        Mistake(
            "A negative number may be the largest in magnitude: take the maximum of abs().", partial(_quantize, magnitude=False)
        ),
        Mistake(
            "A negative number may be the largest in magnitude; some of yours do not fit into int8. Take the maximum of abs().",
            partial(_quantize, magnitude=False, clipped=False),
        ),
        Mistake(
            "Round to the nearest integer; a conversion to int8 alone cuts off the fraction.", partial(_quantize, rounded=False)
        ),
        Mistake("The scale of a group of zeros must be 1.0; yours is 0.", partial(_quantize, guard=0.0)),
        Mistake(
            "Your scales are upside down: integer times scale must give the number back.", partial(_quantize, upside_down=True)
        ),
        Mistake("You return the numbers that the integers stand for; return the integers.", partial(_quantize, dense=True)),
        Mistake(
            "A group consists of neighbours: numbers 0 to group_size - 1 of a row, and so on. Yours are far apart: "
            "view the row "
            "as [groups, group_size].",
            _last_dimension,
        ),
    ),
    names={"[0]": "integers", "[1]": "scales"},
)
ANSWERS = (QUANTIZE_WEIGHT_ANSWER,)
