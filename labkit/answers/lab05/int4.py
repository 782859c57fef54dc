"""The answers to exercises 5.5 and 5.6: references, comparisons and known mistakes."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab05.int4 import PACK_INT4, UNPACK_INT4


# 5.5 ------------------------------------------------------------------------------------------------------------------
def pack_int4(values: Tensor) -> Tensor:
    """The reference solution of exercise 5.5."""
    return _pack(values)


def _pack(
    values: Tensor,
    *,
    low: int = 0,
    offset: int = 8,
    padding: int = 8,
    halves: bool = False,
    signed: bool = False,
    shift: int = 4,
    pads: bool = True,
) -> Tensor:
    """Pack two numbers into each byte. Options make the known mistakes."""
    nibbles = ((values + offset) & 15).to(torch.int16)
    if values.shape[1] % 2 and pads:
        nibbles = F.pad(nibbles, (0, 1), value=padding)
    half = nibbles.shape[1] // 2
    pair = (nibbles[:, :half], nibbles[:, half:]) if halves else (nibbles[:, 0::2], nibbles[:, 1::2])
    packed = (pair[low] | pair[1 - low] << shift) & 255
    return packed.to(torch.uint8).view(torch.int8) if signed else packed.to(torch.uint8)


PACK_INT4_ANSWER = Answer(
    exercise=PACK_INT4,
    reference=pack_int4,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The number with the even index belongs in the low four bits; you put it in the high four bits.",
            partial(_pack, low=1),
        ),
        Mistake("Store v + 8; you store the low four bits of v itself.", partial(_pack, offset=0)),
        Mistake(
            "The padding of an odd row is 8, which stands for 0; you pad with 0, which stands for -8.",
            partial(_pack, padding=0),
        ),
        Mistake(
            "You put column i together with column i + columns / 2; put neighbours together, columns 0 and 1 first.",
            partial(_pack, halves=True),
        ),
        Mistake(
            "In a row with an odd number of columns, the last number has no neighbour: add a column of 8 first.",
            partial(_pack, pads=False),
        ),
        Mistake("Return uint8: in int8, bytes above 127 become negative.", partial(_pack, signed=True)),
        Mistake("The high half begins four bits further left: shift by 4, or multiply by 16.", partial(_pack, shift=3)),
    ),
)


# 5.6 ------------------------------------------------------------------------------------------------------------------
def unpack_int4(packed: Tensor, columns: int) -> Tensor:
    """The reference solution of exercise 5.6."""
    return _unpack(packed, columns)


def _unpack(
    packed: Tensor,
    columns: int,
    *,
    first: int = 0,
    offset: int = 8,
    cut: bool = True,
    halves: bool = False,
    wraps: bool = False,
    signed: bool = False,
) -> Tensor:
    """Unpack the two numbers of each byte. Options make the known mistakes."""
    packed = packed.to(torch.int8) if signed else packed
    parts = packed & 15, packed >> 4
    pair = parts[first], parts[1 - first]
    both = torch.cat(pair, 1) if halves else torch.stack(pair, -1).flatten(1)
    both = both[:, :columns] if cut else both
    return both - offset if wraps else both.to(torch.int8) - offset


def _twos_complement(packed: Tensor, columns: int) -> Tensor:
    """Wrong: each half of a byte is read as a signed number, where 0 to 7 mean themselves and 8 to 15 mean -8 to -1."""
    numbers = _unpack(packed, columns, offset=0)
    return torch.where(numbers > 7, numbers - 16, numbers)


UNPACK_INT4_ANSWER = Answer(
    exercise=UNPACK_INT4,
    reference=unpack_int4,
    comparison=Comparison(),
    mistakes=(
        Mistake("The low four bits come first; you begin with the high four bits.", partial(_unpack, first=1)),
        Mistake("Subtract 8: the stored number is v + 8.", partial(_unpack, offset=0)),
        Mistake("The last half byte of an odd row is padding: return only `columns` numbers.", partial(_unpack, cut=False)),
        Mistake(
            "All low halves come first in your rows, then all high halves; put the two halves of a byte next to each other.",
            partial(_unpack, halves=True),
        ),
        Mistake(
            "uint8 has no negative numbers, so 0 - 8 is 248: convert to int8 before you subtract.", partial(_unpack, wraps=True)
        ),
        Mistake(
            "You convert the byte to int8 before the shift, which then fills up with the sign bit; shift while it is uint8.",
            partial(_unpack, signed=True),
        ),
        Mistake("The halves are not signed numbers: 0 stands for -8, and 15 for 7.", _twos_complement),
    ),
)
ANSWERS = (PACK_INT4_ANSWER, UNPACK_INT4_ANSWER)
