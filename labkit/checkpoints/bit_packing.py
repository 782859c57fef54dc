"""Packs small unsigned integers into int32 words without gaps, and unpacks them.

Number j of a row takes the bits j * bits to (j + 1) * bits - 1 of the row. Bit b of a row is bit b % 32 of word b // 32, so a
number whose width does not divide 32 can span two words. compressed-tensors ("pack-quantized") and GPTQ store their integers
this way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.errors import InvalidRequest

WORD = 32
WITH_GAPS = (3, 5, 6, 7)
"""The widths up to 8 bits that do not divide 32."""
MOST_NUMBERS = 1 << 20
"""How many numbers are packed or unpacked at a time, because the intermediate results need several times the memory."""


def words_of(count: int, bits: int) -> int:
    """The number of int32 words that hold `count` numbers of `bits` bits."""
    return -(-count * bits // WORD)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Pack `numbers` `[rows, count]`, each from 0 to 2^bits - 1, into `[rows, words_of(count, bits)]` int32."""
    words = torch.empty(len(numbers), words_of(numbers.shape[1], bits), dtype=torch.int32, device=numbers.device)
    step = _rows_at_a_time(numbers.shape[1])
    for part, target in zip(torch.split(numbers, step), torch.split(words, step), strict=True):
        target.copy_(_packed(part, bits))
    return words


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """Unpack the first `count` numbers of each row of `words` `[rows, words]` int32, as `[rows, count]` uint8."""
    numbers = torch.empty(len(words), count, dtype=torch.uint8, device=words.device)
    step = _rows_at_a_time(count)
    for part, target in zip(torch.split(words, step), torch.split(numbers, step), strict=True):
        target.copy_(_unpacked(part, bits, count))
    return numbers


def _rows_at_a_time(count: int) -> int:
    return max(1, MOST_NUMBERS // max(count, 1))


def _packed(numbers: Tensor, bits: int) -> Tensor:
    rows, count = numbers.shape
    padded = torch.nn.functional.pad(numbers.to(torch.int64), (0, -count % WORD)).view(rows, -1, WORD)
    words = torch.zeros(rows, padded.shape[1], bits, dtype=torch.int64, device=numbers.device)
    for place in range(WORD):
        word, shift = divmod(place * bits, WORD)
        words[:, :, word] |= padded[:, :, place] << shift & 0xFFFFFFFF
        if shift + bits > WORD:
            words[:, :, word + 1] |= padded[:, :, place] >> (WORD - shift)
    return _signed(words.flatten(1)[:, : words_of(count, bits)])


def _unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    rows = words.shape[0]
    wide = torch.nn.functional.pad(words.to(torch.int64) & 0xFFFFFFFF, (0, -words.shape[1] % bits)).view(rows, -1, bits)
    numbers = torch.empty(rows, wide.shape[1], WORD, dtype=torch.uint8, device=words.device)
    for place in range(WORD):
        word, shift = divmod(place * bits, WORD)
        found = wide[:, :, word] >> shift
        if shift + bits > WORD:
            found = found | wide[:, :, word + 1] << (WORD - shift)
        numbers[:, :, place] = found & ((1 << bits) - 1)
    return numbers.flatten(1)[:, :count]


def unpack_with_gaps(words: Tensor, bits: int, count: int) -> Tensor:
    """Unpack words that hold 32 // bits whole numbers each; the remaining bits of a word are not used.

    Older versions of compressed-tensors packed every width in this way. Only the widths `WITH_GAPS` leave bits unused.
    Raises `InvalidRequest` for other widths.
    """
    if bits not in WITH_GAPS:
        raise InvalidRequest(f"numbers have {bits} bits; 3, 5, 6 and 7 are accepted here: use `unpack` for 1, 2, 4 and 8 bits")
    shifts = torch.arange(WORD // bits, dtype=torch.int64, device=words.device) * bits
    numbers = (words.to(torch.int64)[:, :, None] & 0xFFFFFFFF) >> shifts & ((1 << bits) - 1)
    return numbers.flatten(1)[:, :count].to(torch.uint8).contiguous()


def _signed(words: Tensor) -> Tensor:
    """Convert unsigned 32-bit words, held in int64, to int32 with the same bits."""
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
