"""Computes the attention of one query per sequence over the sequence's cache (flash-decoding, Dao et al. 2023).

One query per head cannot fill a GPU: at batch size 1, GPT-J 6B has 16 heads, but an H100 has 132 multiprocessors. To use all
multiprocessors, the slots of a sequence are divided into splits of `SPLIT_TOKENS`. The program for a split writes the weighted
sum of the values, the maximum of the scores and the sum of the weights. A second kernel combines the splits. The size of a
split is fixed, so the result of a sequence does not depend on the rest of the batch. The grid depends only on the width of the
slot table, so a CUDA graph can contain both launches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import ceil_div, jit_once_for_all, launch, power_of_two, tl

SPLIT_TOKENS = 128
"""The number of slots that a program reads. In half precision, the float32 row that it writes has 1 % of the bytes it reads."""
TILE_BYTES = 8192
"""A program reads this many bytes of keys and as many bytes of values at a time. The loads of three tiles overlap."""
JOINED = 16
"""The number of splits that the second kernel combines at a time."""


@jit_once_for_all("slot_table", "lengths", "table_stride")
def decode_attention_kernel(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    slot_table: tl.tensor,
    lengths: tl.tensor,
    out: tl.tensor,
    statistics: tl.tensor,
    table_stride: tl.tensor,
    scale: tl.tensor,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """One program per head, split and sequence. With `WHOLE`, one split covers the sequence and `out` is the final result.

    Each of the `BLOCK` rows of a tile keeps its own softmax over the slots that it processes: a maximum, a sum and a weighted
    sum of values. The rows are combined only once, after the loop, so that no thread waits for another warp inside the loop.
    """
    head, split, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_heads, splits = tl.num_programs(0), tl.num_programs(1)
    length = tl.load(lengths + sequence)
    begin = split * SPLIT
    if begin >= length and not WHOLE:
        return
    end = length if WHOLE else tl.minimum(length, begin + SPLIT)

    rows = tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM)
    inside = dims < HEAD_DIM
    place = sequence.to(tl.int64) * num_heads + head
    q = tl.load(query + place * HEAD_DIM + dims, mask=inside, other=0.0).to(tl.float32) * scale
    table = slot_table + sequence.to(tl.int64) * table_stride

    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    summed = tl.zeros((BLOCK, DIM), tl.float32)
    for first in tl.range(begin, end, BLOCK, num_stages=STAGES):
        seen = first + rows < end
        slots = tl.load(table + first + rows, mask=seen, other=0).to(tl.int64)
        cells = (slots * num_heads + head)[:, None] * HEAD_DIM + dims[None, :]
        wanted = seen[:, None] & inside[None, :]
        key = tl.load(keys + cells, mask=wanted, other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(key * q[None, :], 1), float("-inf"))
        higher = tl.maximum(highest, score)
        # A row that has seen no slot yet has the maximum -inf, and -inf - -inf would be NaN.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        before = tl.exp2(highest - base)
        weight = tl.exp2(score - base)
        value = tl.load(values + cells, mask=wanted, other=0.0).to(tl.float32)
        total = total * before + weight
        summed = summed * before[:, None] + weight[:, None] * value
        highest = higher

    top = tl.max(highest, 0)
    share = tl.exp2(highest - tl.where(top == float("-inf"), 0.0, top))
    total = tl.sum(total * share, 0)
    summed = tl.sum(summed * share[:, None], 0)
    if WHOLE:
        result = summed / tl.where(total > 0, total, 1.0)  # a sequence without slots gets zeros
        tl.store(out + place * HEAD_DIM + dims, result.to(out.dtype.element_ty), mask=inside)
    else:
        place = place * splits + split
        tl.store(out + place * HEAD_DIM + dims, summed, mask=inside)
        tl.store(statistics + 2 * place, top)
        tl.store(statistics + 2 * place + 1, total)


@jit_once_for_all("lengths", "splits")
def join_kernel(
    partial: tl.tensor,
    statistics: tl.tensor,
    lengths: tl.tensor,
    out: tl.tensor,
    splits: tl.tensor,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per head and sequence: it combines the softmaxes of the splits into one softmax over all slots."""
    sequence = tl.program_id(1)
    place = sequence.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    written = tl.cdiv(tl.load(lengths + sequence), SPLIT)
    rows = tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM)
    inside = dims < HEAD_DIM

    highest = float("-inf")
    total = 0.0
    summed = tl.zeros((DIM,), tl.float32)
    for first in tl.range(0, written, BLOCK):
        there = first + rows < written
        part_place = place * splits + first + rows
        top = tl.load(statistics + 2 * part_place, mask=there, other=float("-inf"))
        sums = tl.load(statistics + 2 * part_place + 1, mask=there, other=0.0)
        part = tl.load(
            partial + part_place[:, None] * HEAD_DIM + dims[None, :], mask=there[:, None] & inside[None, :], other=0.0
        )
        higher = tl.maximum(highest, tl.max(top, 0))
        before = tl.exp2(highest - higher)
        share = tl.exp2(top - higher)
        total = total * before + tl.sum(sums * share, 0)
        summed = summed * before + tl.sum(part * share[:, None], 0)
        highest = higher
    result = summed / tl.where(total > 0, total, 1.0)  # a sequence without slots gets zeros
    tl.store(out + place * HEAD_DIM + dims, result.to(out.dtype.element_ty), mask=inside)


def decode_config(dtype: torch.dtype, head_dim: int) -> dict[str, int]:
    """Return the rows per tile, the warps and the stages for one head dimension."""
    dim = power_of_two(head_dim)
    block = min(max(TILE_BYTES // (dim * dtype.itemsize), 8), SPLIT_TOKENS)
    return {"HEAD_DIM": head_dim, "DIM": dim, "BLOCK": block, "STAGES": 3, "num_warps": 4}


def decode_attention_triton(
    query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor, *, split_tokens: int = SPLIT_TOKENS
) -> Tensor:
    """Run `labkit.ops.decode_attention` as Triton kernels. Scores, softmax and sums are in float32.

    The host does not read the values of any tensor. A sequence of length 0 gets zeros. `split_tokens` is the number of slots
    per program.
    """
    sequences, num_heads, head_dim = query.shape
    query, keys, values, lengths = query.contiguous(), keys.contiguous(), values.contiguous(), lengths.contiguous()
    if slot_table.stride(1) != 1:
        slot_table = slot_table.contiguous()
    out = torch.empty_like(query)
    splits = ceil_div(slot_table.shape[1], split_tokens)
    whole = splits == 1
    shape = (sequences, num_heads, splits)
    partial = out if whole else torch.empty(*shape, head_dim, dtype=torch.float32, device=query.device)
    statistics = out if whole else torch.empty(*shape, 2, dtype=torch.float32, device=query.device)
    config = decode_config(query.dtype, head_dim)
    scale = math.log2(math.e) / math.sqrt(head_dim)  # a GPU computes exp2 in one instruction
    tensors = query, keys, values, slot_table, lengths, partial, statistics
    grid = (num_heads, splits, sequences)
    strides = slot_table.stride(0), scale
    launch(decode_attention_kernel, grid, *tensors, *strides, **config, SPLIT=split_tokens, WHOLE=whole)
    if not whole:
        constants = {
            "HEAD_DIM": head_dim,
            "DIM": config["DIM"],
            "SPLIT": split_tokens,
            "BLOCK": min(power_of_two(splits), JOINED),
        }
        launch(join_kernel, (num_heads, sequences), partial, statistics, lengths, out, splits, **constants)
    return out
