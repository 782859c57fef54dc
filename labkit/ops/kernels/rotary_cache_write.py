"""Rotate the query and the key, and write the key and the value into the cache. All data is read once and written once."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import ceil_div, jit, jit_once_for_all, launch, power_of_two, tl

VALUES = 2048
"""Each program processes this many numbers of the query, of the key and of the value.

In half precision with 8 warps, a thread has 16 bytes of the query, 16 of the key and 16 of the value.
"""


@jit
def rotate(x: tl.tensor, sin: tl.tensor, cos: tl.tensor, HEADS: tl.constexpr, DIM: tl.constexpr) -> tl.tensor:
    """Rotate neighbouring pairs of `x` `[HEADS, DIM]` by the angles of `sin`, `cos` `[DIM / 2]`; the result is float32."""
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (HEADS, DIM // 2, 2)))
    rotated = tl.join(even * cos[None, :] - odd * sin[None, :], odd * cos[None, :] + even * sin[None, :])
    return tl.reshape(rotated, (HEADS, DIM))


@jit_once_for_all("positions", "slot_mapping", "num_slots")
def rotary_cache_write_kernel(
    qkv: tl.tensor,
    positions: tl.tensor,
    sin: tl.tensor,
    cos: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    slot_mapping: tl.tensor,
    query: tl.tensor,
    num_slots: tl.tensor,
    num_heads: tl.tensor,
    HEAD_DIM: tl.constexpr,
    PAIRS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
) -> None:
    """One program per token and `HEADS` of its heads; `DIM` is `HEAD_DIM` rounded up, `PAIRS` is rotary_dim / 2."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, DIM)
    inside = (heads < num_heads)[:, None] & (dims < HEAD_DIM)[None, :]
    within = heads[:, None] * HEAD_DIM + dims[None, :]  # offset among all heads of one token
    hidden_size = num_heads * HEAD_DIM

    # The dimensions after the rotated pairs get the angle zero, so they stay unchanged.
    pairs = tl.arange(0, DIM // 2)
    angle = tl.load(positions + token) * PAIRS + pairs
    sines = tl.load(sin + angle, mask=pairs < PAIRS, other=0.0)
    cosines = tl.load(cos + angle, mask=pairs < PAIRS, other=1.0)

    source = qkv + token * 3 * hidden_size + within
    q = tl.load(source, mask=inside, other=0.0)
    k = tl.load(source + hidden_size, mask=inside, other=0.0)
    v = tl.load(source + 2 * hidden_size, mask=inside, other=0.0)
    rotated = rotate(q, sines, cosines, HEADS, DIM)
    tl.store(query + token * hidden_size + within, rotated.to(query.dtype.element_ty), mask=inside)

    slot = tl.load(slot_mapping + token).to(tl.int64)
    into = inside & (slot >= 0) & (slot < num_slots)  # never write outside the cache, even if the mapping is wrong
    place = slot * hidden_size + within
    tl.store(keys + place, rotate(k, sines, cosines, HEADS, DIM).to(keys.dtype.element_ty), mask=into)
    tl.store(values + place, v.to(values.dtype.element_ty), mask=into)


def rotary_cache_write_triton(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """Run `labkit.ops.rotary_cache_write` as a Triton kernel. Angles stay in float32. A slot outside the cache is not written.

    The host does not read the values of any tensor, so a CUDA graph can contain the launch. `keys` and `values` are written in
    place, so they must be contiguous.
    """
    num_slots, num_heads, head_dim = keys.shape
    tokens, dim = qkv.shape[0], power_of_two(head_dim)
    heads = min(max(VALUES // dim, 1), power_of_two(num_heads))
    query = torch.empty(tokens, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    positions, slot_mapping = positions.contiguous(), slot_mapping.contiguous()
    tensors = qkv.contiguous(), positions, sin.contiguous(), cos.contiguous(), keys, values, slot_mapping, query
    constants = {"HEAD_DIM": head_dim, "PAIRS": sin.shape[-1], "HEADS": heads, "DIM": dim}
    grid = (tokens, ceil_div(num_heads, heads))
    launch(rotary_cache_write_kernel, grid, *tensors, num_slots, num_heads, **constants, num_warps=max(heads * dim // 256, 1))
    return query
