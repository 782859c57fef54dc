"""Both attention kernels are compared with float64. Cache slots that the kernels must not read hold 1e30 and NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from labkit import ops
from labkit.ops.kernels.decode_attention import decode_attention_triton
from labkit.ops.kernels.interpreter_traffic import count_traffic
from labkit.ops.kernels.prefill_attention import prefill_attention_triton
from tests.ops.kernels.guard import misaligned
from tests.ops.test_ops import random, relative, scattered_cache
from tests.sampled import one_in

BOUNDS = {torch.float32: 2e-6, torch.float16: 2e-3}
Place = Callable[[torch.Tensor], torch.Tensor]


def poisoned_cache(lengths: list[int], heads: int, head_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """The tensors of `scattered_cache` in `dtype`, and the same values in float64 for the reference."""
    keys, values, table = scattered_cache(lengths, heads, head_dim)
    keys, values = keys.to(dtype), values.to(dtype)
    return keys, values, table, torch.tensor(lengths, dtype=torch.int32), keys.double(), values.double()


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("place", [torch.clone, misaligned])
@pytest.mark.parametrize("split_tokens", one_in(2, [16, 128]))
@pytest.mark.parametrize(
    ("lengths", "heads", "head_dim"),
    [([1], 1, 1), ([5, 1, 23], 3, 33), ([16, 17, 48, 300], 1, 64), ([130, 2], 2, 80), ([3, 260], 1, 256)],
)
def test_decode_attention(
    lengths: list[int], heads: int, head_dim: int, split_tokens: int, place: Place, dtype: torch.dtype
) -> None:
    keys, values, table, counts, wide_keys, wide_values = poisoned_cache(lengths, heads, head_dim, dtype)
    query = random(len(lengths), heads, head_dim).to(dtype)
    expected = ops.decode_attention(query.double(), wide_keys, wide_values, table, counts)
    where = place(table), place(counts)
    found = decode_attention_triton(place(query), place(keys), place(values), *where, split_tokens=split_tokens)
    assert found.dtype == dtype
    assert relative(found, expected) < BOUNDS[dtype]


def test_decode_attention_does_not_depend_on_the_batch() -> None:
    keys, values, table, counts, *_ = poisoned_cache([40, 300, 1], 2, 32, torch.float32)
    query = random(3, 2, 32).float()
    together = decode_attention_triton(query, keys, values, table, counts)
    for row in range(3):
        alone = decode_attention_triton(query[row : row + 1], keys, values, table[row : row + 1], counts[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_decode_attention_reads_its_slots_once_and_no_split_behind_them() -> None:
    heads, head_dim, lengths = 2, 64, [150, 7]
    keys, values, _, counts, *_ = poisoned_cache(lengths, heads, head_dim, torch.float32)
    table = torch.zeros(2, 600, dtype=torch.int32)
    table[0, :150], table[1, :7] = torch.arange(150), torch.arange(7)
    with count_traffic() as traffic:
        decode_attention_triton(random(2, heads, head_dim).float(), keys, values, table, counts)
    row = 4 * head_dim
    splits, grid = 2 + 1, 5 * 2  # the splits that hold slots; all splits of the table for both sequences
    cache = heads * (150 + 7) * (2 * row + 4)
    partial = heads * splits * (row + 2 * 4)
    assert traffic.bytes_read == cache + heads * splits * row + heads * grid * 4 + partial + 2 * heads * 4
    assert traffic.bytes_written == partial + 2 * heads * row


@pytest.mark.parametrize("split_tokens", [16, 128])
def test_a_sequence_without_slots_gets_zeros(split_tokens: int) -> None:
    keys, values, table, *_ = poisoned_cache([40, 3], 2, 32, torch.float32)
    counts = torch.tensor([0, 3], dtype=torch.int32)
    found = decode_attention_triton(random(2, 2, 32).float(), keys, values, table, counts, split_tokens=split_tokens)
    assert float(found[0].abs().max()) == 0
    assert float(found[1].abs().max()) > 0


def test_very_large_scores_stay_numbers() -> None:
    keys, values, table, counts, wide_keys, wide_values = poisoned_cache([300], 1, 16, torch.float32)
    query = 1e4 * random(1, 1, 16)
    expected = ops.decode_attention(query, wide_keys, wide_values, table, counts)
    assert relative(decode_attention_triton(query.float(), keys, values, table, counts), expected) < 1e-5
    where = table, torch.tensor([0, 1], dtype=torch.int32), counts
    assert relative(prefill_attention_triton(query.float(), keys, values, *where), expected) < 1e-5


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("place", one_in(2, [torch.clone, misaligned]))
@pytest.mark.parametrize("spans", [[(1, 0)], [(7, 0), (5, 12), (1, 19), (0, 4)], [(1, 0), (70, 61), (2, 0)]])
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 1), (3, 33), (1, 80), (1, 256)])
def test_prefill_attention(spans: list[tuple[int, int]], heads: int, head_dim: int, place: Place, dtype: torch.dtype) -> None:
    lengths = [new + past for new, past in spans]
    keys, values, table, counts, wide_keys, wide_values = poisoned_cache(lengths, heads, head_dim, dtype)
    starts = torch.tensor([0, *(sum(new for new, _ in spans[: i + 1]) for i in range(len(spans)))], dtype=torch.int32)
    query = random(int(starts[-1]), heads, head_dim).to(dtype)
    expected = ops.prefill_attention(query.double(), wide_keys, wide_values, table, starts, counts)
    where = place(table), place(starts), place(counts)
    found = prefill_attention_triton(place(query), place(keys), place(values), *where)
    assert found.dtype == dtype
    assert relative(found, expected) < BOUNDS[dtype]


def test_a_row_slice_of_a_wider_table_and_no_tokens() -> None:
    keys, values, table, counts, wide_keys, wide_values = poisoned_cache([9, 20, 4], 1, 32, torch.float32)
    query = random(2, 1, 32)
    rows = table[1:], counts[1:]
    expected = ops.decode_attention(query, wide_keys, wide_values, *rows)
    assert relative(decode_attention_triton(query.float(), keys, values, *rows), expected) < 2e-6
    assert (
        relative(decode_attention_triton(query.float(), keys, values, table.t().contiguous().t()[1:], counts[1:]), expected)
        < 2e-6
    )
    none = query[:0].float()
    assert decode_attention_triton(none, keys, values, table[:0], counts[:0]).shape == (0, 1, 32)
    empty = prefill_attention_triton(none, keys, values, table[:1], torch.zeros(2, dtype=torch.int32), counts[:1])
    assert empty.shape == (0, 1, 32)
