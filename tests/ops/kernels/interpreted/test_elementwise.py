"""Kernels other than matrix products and attention: residual sum and norm, embedding, rotary embedding and cache write."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from labkit import ops
from labkit.ops.kernels.embedding import embedding_triton
from labkit.ops.kernels.interpreter_traffic import count_traffic
from labkit.ops.kernels.layer_norm import layer_norm_triton
from labkit.ops.kernels.residual_layer_norm import residual_layer_norm_triton
from labkit.ops.kernels.rotary_cache_write import rotary_cache_write_triton
from tests.ops.kernels.guard import misaligned
from tests.ops.test_ops import random, relative

BOUNDS = {torch.float32: 2e-6, torch.float16: 1.5e-3}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("place", [torch.clone, misaligned])
@pytest.mark.parametrize(("tokens", "hidden"), [(1, 1), (3, 7), (5, 130), (2, 4096), (1, 12288)])
def test_residual_layer_norm(
    tokens: int, hidden: int, place: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    parts = [place(random(tokens, hidden, seed=seed).to(dtype)) for seed in range(3)]
    weight, bias = place(random(hidden).to(dtype)), place(random(hidden, seed=1).to(dtype))
    expected, expected_normed = ops.residual_layer_norm(*(part.double() for part in (*parts, weight, bias)), 1e-5)
    hidden_state, normed = residual_layer_norm_triton(*parts, weight, bias, 1e-5)
    assert hidden_state.dtype == normed.dtype == dtype
    assert relative(hidden_state, expected) < BOUNDS[dtype]
    assert relative(normed, expected_normed) < 4 * BOUNDS[dtype]  # the hidden state is rounded first
    assert torch.equal(normed, layer_norm_triton(hidden_state, weight, bias, 1e-5))


def test_residual_layer_norm_moves_five_hidden_states() -> None:
    x, weight = torch.randn(3, 70), torch.randn(70)
    with count_traffic() as traffic:
        residual_layer_norm_triton(x, x.clone(), x.clone(), weight, weight, 1e-5)
    assert (traffic.bytes_read, traffic.bytes_written) == (4 * 3 * (3 * 70 + 2 * 70), 4 * 2 * 3 * 70)


@pytest.mark.parametrize("place", [torch.clone, misaligned])
@pytest.mark.parametrize(("vocab", "hidden"), [(1, 1), (13, 7), (5, 4100)])
def test_embedding_copies_rows(vocab: int, hidden: int, place: Callable[[torch.Tensor], torch.Tensor]) -> None:
    ids = torch.tensor([vocab - 1, 0, vocab // 2, vocab - 1])
    for dtype in (torch.float32, torch.float16):
        table = random(vocab, hidden).to(dtype)
        assert torch.equal(embedding_triton(place(ids), place(table)), table[ids])


def test_a_token_outside_the_table_gives_nan_and_reads_nothing() -> None:
    table = random(5, 6).float()
    with count_traffic() as traffic:
        found = embedding_triton(torch.tensor([-1, 5, 4]), table)
    assert bool(found[:2].isnan().all())
    assert torch.equal(found[2], table[4])
    assert traffic.bytes_read == 3 * 8 + 6 * 4


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("place", [torch.clone, misaligned])
@pytest.mark.parametrize(
    ("tokens", "heads", "head_dim", "rotary_dim"),
    [(1, 1, 2, 2), (5, 3, 10, 6), (3, 3, 80, 20), (2, 16, 256, 64), (2, 4, 32, 32)],
)
def test_rotary_cache_write(
    tokens: int, heads: int, head_dim: int, rotary_dim: int, place: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    slots = tokens + 6
    qkv = place(random(tokens, 3 * heads * head_dim).to(dtype))
    order = torch.randperm(slots, generator=torch.Generator().manual_seed(tokens))
    positions, mapping = place(torch.randperm(20)[:tokens] + 1980), place(order[:tokens])
    tables = ops.rotary_table(2048, rotary_dim)
    caches = [place(torch.full((slots, heads, head_dim), 7.0, dtype=dtype)) for _ in "kv"]
    expected = [cache.double() for cache in caches]
    expected_query = ops.rotary_cache_write(qkv.double(), positions, *tables.double(), *expected, mapping)
    query = rotary_cache_write_triton(qkv, positions, *tables, *caches, mapping)
    assert query.dtype == dtype
    assert relative(query, expected_query) < BOUNDS[dtype]
    assert relative(caches[0], expected[0]) < BOUNDS[dtype]
    assert torch.equal(caches[1].double(), expected[1])
    assert all(bool((cache[order[tokens:]] == 7).all()) for cache in caches)


def test_rotary_cache_write_reads_once_and_writes_once() -> None:
    tokens, heads, head_dim, pairs = 3, 3, 80, 10
    cache, ids = torch.zeros(9, heads, head_dim), torch.arange(tokens)
    tables = ops.rotary_table(64, 2 * pairs)
    with count_traffic() as traffic:
        rotary_cache_write_triton(random(tokens, 3 * heads * head_dim).float(), ids, *tables, cache, cache.clone(), ids)
    row = heads * head_dim * 4
    assert traffic.bytes_written == tokens * 3 * row
    assert traffic.bytes_read == tokens * (3 * row + 2 * 8 + 2 * 4 * pairs)


@pytest.mark.parametrize("slot", [-1, 4])
def test_a_slot_outside_the_cache_is_not_written(slot: int) -> None:
    buffer = torch.full((6, 1, 4), 7.0)
    cache = buffer[1:5]
    query = rotary_cache_write_triton(
        torch.ones(1, 12), torch.tensor([0]), *ops.rotary_table(8, 4), cache, cache, torch.tensor([slot])
    )
    assert bool((buffer == 7).all())
    assert math.isclose(float(query.sum()), 4)
