"""The answer to exercise 6.4: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab06.stored_bytes import STORED_BYTES


def stored_bytes(out: int, columns: int, kept: int, element_bytes: int) -> dict[str, int]:
    """The reference solution of exercise 6.4."""
    return _bytes(out, columns, kept, element_bytes)


def _bytes(
    out: int,
    columns: int,
    kept: int,
    element_bytes: int,
    *,
    dense_kept: bool = False,
    column_bytes: int = 4,
    starts: int = 1,
    has_starts: bool = True,
    mask_bits: int = 1,
    mask_kept: bool = False,
    place_bits: int = 2,
    places_of_all: bool = False,
    half: bool = True,
) -> dict[str, int]:
    """Return how many bytes each format takes. Options make the known mistakes."""
    weights = out * columns
    masked = kept if mask_kept else weights
    halved = weights // 2 if half else kept
    return {
        "dense": (kept if dense_kept else weights) * element_bytes,
        "csr": kept * (element_bytes + column_bytes) + (4 * (out + starts) if has_starts else 0),
        "bitmask": kept * element_bytes + masked * mask_bits // 8,
        "2:4": halved * element_bytes + (weights if places_of_all else halved) * place_bits // 8,
    }


STORED_BYTES_ANSWER = Answer(
    exercise=STORED_BYTES,
    reference=stored_bytes,
    comparison=Comparison(),
    mistakes=(
        Mistake("A dense matrix also stores its zeros: count all numbers.", partial(_bytes, dense_kept=True)),
        Mistake("CSR: the column index of each kept number is missing.", partial(_bytes, column_bytes=0)),
        Mistake("CSR: a column index has 4 bytes here, not 8.", partial(_bytes, column_bytes=8)),
        Mistake("CSR: the starts of the rows are missing.", partial(_bytes, has_starts=False)),
        Mistake("CSR: there is one more start than rows, because the last row needs an end.", partial(_bytes, starts=0)),
        Mistake("Bitmask: the mask is missing.", partial(_bytes, mask_bits=0)),
        Mistake("Bitmask: a bit is an eighth of a byte.", partial(_bytes, mask_bits=8)),
        Mistake("Bitmask: every weight has a bit, not only the kept ones.", partial(_bytes, mask_kept=True)),
        Mistake("2:4: the places are missing.", partial(_bytes, place_bits=0)),
        Mistake("2:4: a place has 2 bits; you count 2 bytes.", partial(_bytes, place_bits=16)),
        Mistake(
            "2:4: only stored numbers have a place, and these are half of all numbers.", partial(_bytes, places_of_all=True)
        ),
        Mistake(
            "2:4: half of all numbers are stored, even if more or fewer are nonzero: the format is fixed.",
            partial(_bytes, half=False),
        ),
    ),
    names={"['dense']": "dense", "['csr']": "csr", "['bitmask']": "bitmask", "['2:4']": "2:4"},
)
ANSWERS = (STORED_BYTES_ANSWER,)
