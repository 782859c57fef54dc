"""The answer to exercise 6.3: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab06.storage import COMPRESS_TWO_FOUR


def compress_two_four(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The reference solution of exercise 6.3."""
    return _compress(weight, mask)


def _compress(
    weight: Tensor,
    mask: Tensor,
    *,
    places: str = "kept",
    first_low: bool = True,
    left_low: bool = True,
    packed: bool = True,
    by_column: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the kept values and their indices. Options make the known mistakes."""
    rows = len(weight)
    values = (weight.T[mask.T] if by_column else weight[mask]).view(rows, -1)
    of = ~mask if places == "pruned" else mask
    found = of.nonzero()[:, 1].view(rows, -1, 2)
    found = found % 8 if places == "of eight" else found % 4 + (places == "from one")
    first, second = (0, 1) if first_low else (1, 0)
    nibbles = (found[..., first] | found[..., second] << 2).to(torch.uint8)
    if not packed:
        return values, nibbles
    left, right = (0, 1) if left_low else (1, 0)
    return values, nibbles[:, left::2] | nibbles[:, right::2] << 4


def _not_zero(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return _compress(weight, weight != 0)


def _all_numbers(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return weight, _compress(weight, mask)[1]


def _bits_of_mask(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    bits = mask.view(len(mask), -1, 8).to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=mask.device)
    return weight[mask].view(len(weight), -1), bits.sum(-1, dtype=torch.uint8)


COMPRESS_TWO_FOUR_ANSWER = Answer(
    exercise=COMPRESS_TWO_FOUR,
    reference=compress_two_four,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You swapped the two groups of four in a byte: the left one belongs in the low half.",
            partial(_compress, left_low=False),
        ),
        Mistake(
            "You swapped the two places of a group of four: the first belongs in the low two bits.",
            partial(_compress, first_low=False),
        ),
        Mistake(
            "A kept weight may be 0: the mask decides which weights are kept, not whether they are nonzero.",
            _not_zero,
        ),
        Mistake("Your places are those of the pruned weights.", partial(_compress, places="pruned")),
        Mistake("Places begin at 0: two bits hold 0 to 3.", partial(_compress, places="from one")),
        Mistake(
            "You count places from the start of eight columns; count them from the start of their group of four.",
            partial(_compress, places="of eight"),
        ),
        Mistake(
            "Each group of four has its own byte in your result; two groups must share a byte.",
            partial(_compress, packed=False),
        ),
        Mistake("Your values go down the columns; the values of a row belong together.", partial(_compress, by_column=True)),
        Mistake("You return all numbers as values; the pruned ones are not stored.", _all_numbers),
        Mistake(
            "Your bytes hold a bit for each weight: that is a bitmask of the same size. Store two places for each "
            "group of four.",
            _bits_of_mask,
        ),
    ),
    names={"[0]": "values", "[1]": "indices"},
)
ANSWERS = (COMPRESS_TWO_FOUR_ANSWER,)
