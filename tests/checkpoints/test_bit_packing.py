"""Bit packing is compared with a slow reference that writes the bits of a row as one long number."""

from __future__ import annotations

import pytest
import torch

from labkit.checkpoints.bit_packing import pack, unpack, unpack_with_gaps, words_of
from labkit.errors import InvalidRequest


def as_one_number(row: list[int], bits: int) -> list[int]:
    """The 32-bit words of a row: number j is added at bit j * bits of one long number."""
    long = sum(number << (place * bits) for place, number in enumerate(row))
    return [long >> (32 * word) & 0xFFFFFFFF for word in range(words_of(len(row), bits))]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 31, 64, 77])
def test_the_bits_of_a_row_follow_each_other(bits: int, count: int) -> None:
    numbers = torch.randint(0, 1 << bits, (3, count), generator=torch.Generator().manual_seed(bits))
    words = pack(numbers, bits)
    assert words.dtype == torch.int32
    found = [[word & 0xFFFFFFFF for word in row] for row in words.tolist()]
    assert found == [as_one_number(row, bits) for row in numbers.tolist()]
    assert torch.equal(unpack(words, bits, count).long(), numbers)


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_older_files_leave_some_bits_of_a_word_unused(bits: int) -> None:
    numbers = torch.randint(0, 1 << bits, (3, 331), generator=torch.Generator().manual_seed(bits))
    a_word = 32 // bits
    words = [[as_one_number(row[i : i + a_word], bits)[0] for i in range(0, 331, a_word)] for row in numbers.tolist()]
    packed = torch.tensor(words, dtype=torch.int64).to(torch.int32)
    assert packed.shape[1] > words_of(331, bits), "this is more than without gaps"
    assert torch.equal(unpack_with_gaps(packed, bits, 331).long(), numbers)


@pytest.mark.parametrize("bits", [0, 1, 2, 4, 8, 9, 33])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(InvalidRequest, match=f"^numbers have {bits} bits; 3, 5, 6 and 7 are accepted here: use `unpack` for"):
        unpack_with_gaps(torch.zeros(2, 3, dtype=torch.int32), bits, 6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_against_compressed_tensors(bits: int) -> None:
    helpers = pytest.importorskip(
        "compressed_tensors.compressors.pack_quantized.helpers", reason="not measured here: compressed-tensors is not installed"
    )
    values = torch.randint(-(1 << bits - 1), 1 << bits - 1, (6, 70), dtype=torch.int8)
    ours = pack(values.short() + (1 << bits - 1), bits)
    assert torch.equal(ours, helpers.pack_to_int32(values, bits))
