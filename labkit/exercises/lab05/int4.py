"""Exercises 5.5 and 5.6: pack two 4-bit integers into a byte, and unpack them again."""

from __future__ import annotations

import torch

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws
from labkit.plurals import counted

SHAPES = ((1, 2), (3, 8), (2, 7), (5, 1), (4, 33))


def _integers(draws: Draws, rows: int, columns: int) -> torch.Tensor:
    """Random integers from -8 to 7, with at least one -8 and one 7."""
    found = (draws.normal(rows, columns) * 5).round().clamp(-8, 7)
    found[0, 0], found[-1, -1] = -8, 7
    return found.to(torch.int8)


def _pack_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    shapes = [*SHAPES, (draws.pick.randrange(2, 9), draws.pick.randrange(9, 50))]
    cases = [
        Case(f"{counted(rows, 'row')}, {counted(columns, 'column')}", (_integers(draws, rows, columns),))
        for rows, columns in shapes
    ]
    real = draws.real_weight(6, 64)
    real = (real / real.abs().amax(1, keepdim=True) * 7).round().to(torch.int8)
    zeros = torch.zeros(2, 6, dtype=torch.int8, device="cpu")
    return [
        *cases,
        Case("a weight of gptj-tiny, 6 rows, 64 columns", (real,)),
        Case("all numbers 0, 2 rows, 6 columns", (zeros,)),
    ]


PACK_INT4 = Exercise(
    name="lab05.pack_int4",
    lab="05",
    number="5.5",
    title="Two weights in a byte",
    function="pack_int4",
    statement=(
        "`values` `[rows, columns]` int8 holds numbers from -8 to 7. Store each number as $v + 8$, which is 0 to 15, and two "
        "neighbours of a row in one byte: the number with the even index in the low four bits, its right neighbour in the "
        "high four bits. Return uint8 `[rows, columns / 2]`. If `columns` is odd, fill the last high half with 8, which stands "
        "for 0."
    ),
    points=6,
    minutes=8,
    difficulty=2,
    cases=_pack_cases,
    hints=(
        "How do you select every second column, beginning with column 0 or with column 1?",
        "Add 8 and convert to uint8, which has room for 15 * 16. torch.nn.functional.pad adds a column.",
        "nibbles = (values + 8).to(torch.uint8); nibbles[:, 0::2] | nibbles[:, 1::2] << 4",
    ),
)


def _unpack_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    for rows, columns in (*SHAPES, (draws.pick.randrange(2, 9), draws.pick.randrange(9, 50))):
        width = -(-columns // 2)
        drawn = [draws.pick.randrange(256) for _ in range(rows * width - 2)]
        packed = torch.tensor([0x1F, *drawn, 0xE0][: rows * width], dtype=torch.uint8, device="cpu").view(rows, width)
        cases.append(
            Case(f"{counted(rows, 'row')} of {counted(width, 'byte')}, {counted(columns, 'column')}", (packed, columns))
        )
    return cases


UNPACK_INT4 = Exercise(
    name="lab05.unpack_int4",
    lab="05",
    number="5.6",
    title="Two weights out of a byte",
    function="unpack_int4",
    statement=(
        "Unpack `packed` uint8 `[rows, bytes]` into int8 `[rows, columns]` with numbers from -8 to 7, in the order "
        "of exercise 5.5. If `columns` is odd, the last half byte of each row is padding: leave it out."
    ),
    points=5,
    minutes=6,
    difficulty=2,
    cases=_unpack_cases,
    hints=(
        "Which operation keeps the low four bits of a byte, and which one moves the high four bits down?",
        "uint8 has no negative numbers: convert to int8 before you subtract 8. torch.stack(..., dim=-1).flatten(1) puts the two "
        "halves of a byte next to each other.",
        "both = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1); both[:, :columns].to(torch.int8) - 8",
    ),
)
EXERCISES = (PACK_INT4, UNPACK_INT4)
