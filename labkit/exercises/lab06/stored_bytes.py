"""Exercise 6.4: the bytes of a sparse matrix in four storage formats."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.plurals import counted


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [(1, 8, 4, 2), (4096, 4096, 4096 * 2048, 2), (16384, 4096, 16384 * 410, 4), (3, 16, 0, 2), (2, 24, 48, 4)]
    for _ in range(4):
        out, columns = draw.randrange(2, 700), 8 * draw.randrange(1, 90)
        rows.append((out, columns, draw.randrange(1, out * columns), draw.choice([1, 2, 4])))
    return [
        Case(f"{out} x {columns}, {kept} kept, {counted(size, 'byte')} each", (out, columns, kept, size))
        for out, columns, kept, size in rows
    ]


STORED_BYTES = Exercise(
    name="lab06.stored_bytes",
    lab="06",
    number="6.4",
    title="What a place costs",
    function="stored_bytes",
    statement=(
        "`kept` weights of a matrix `[out, columns]` are not 0; each number has `element_bytes`. Return the bytes of four "
        'formats in a dictionary:\n\n- `"dense"`: all numbers.\n- `"csr"`: the kept numbers, a column index of 4 bytes for '
        'each, and `out + 1` row starts of 4 bytes.\n- `"bitmask"`: the kept numbers, and a bit for each weight.\n- `"2:4"`: '
        "half of all numbers, whatever `kept` is, and a place of 2 bits for each of them.\n\n`columns` is a multiple of 8."
    ),
    points=10,
    minutes=5,
    difficulty=2,
    core=True,
    cases=_cases,
    hints=(
        "Which of the four formats depend on the number of kept weights?",
        "Eight bits of a mask are one byte. Four places of two bits are one byte, and half of the weights have a place.",
        'weights = out * columns; "csr": kept * (element_bytes + 4) + 4 * (out + 1); "2:4": weights // 2 * element_bytes + weights // 8',
    ),
)
EXERCISES = (STORED_BYTES,)
