"""Computes causal attention of many new tokens per sequence, in tiles that stay on the chip (FlashAttention-2, Dao 2023).

Scores are never written to memory. A program holds a block of queries and loops over the keys to which these queries attend.
For each row, the program keeps the maximum score, the sum of the weights and the weighted sum of the values. When the program
finds a larger score, it scales both sums down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import arch_of, ceil_div, jit, jit_once_for_all, launch, power_of_two, tl

TILES: dict[str, dict[int, tuple[int, int, int, int]]] = {
    "float32": {64: (32, 32, 8, 2), 128: (32, 16, 4, 2), 256: (16, 16, 4, 2)},
    # for few new tokens (verifying a draft, or the end of a prompt); a larger tile would have empty rows
    "few tokens": {256: (16, 64, 8, 2)},
    "hopper": {128: (128, 64, 8, 3), 256: (128, 32, 8, 3)},
    "others": {128: (128, 32, 8, 3), 256: (64, 32, 8, 2)},
}
"""For each case: BLOCK_M, BLOCK_N, num_warps and num_stages, by the largest head dimension for which they are used.

With these tiles, no kernel spills registers in Triton 3.6 or 3.7.
"""
FEWEST = 64
"""A kernel is compiled for at least this many sequences.

Usual batches have fewer sequences, so they all share one compiled kernel.
"""


@jit
def block_of(
    program: tl.tensor, starts: tl.tensor, num_sequences: tl.tensor, SEQUENCES: tl.constexpr, M: tl.constexpr
) -> tl.tensor:
    """Return the sequence of block number `program`, and the block's number within that sequence.

    Each sequence is divided into blocks of `M` tokens, and the blocks of all sequences are numbered in order.
    """
    sequences = tl.arange(0, SEQUENCES)
    real = sequences < num_sequences
    begins = tl.load(starts + sequences, mask=real, other=0)
    blocks = tl.cdiv(tl.load(starts + sequences + 1, mask=real, other=0) - begins, M)
    sequence = tl.sum((tl.cumsum(blocks, 0) <= program).to(tl.int32), 0)
    return sequence, program - tl.sum(tl.where(sequences < sequence, blocks, 0), 0)


@jit_once_for_all("slot_table", "starts", "lengths", "num_sequences", "table_stride")
def prefill_attention_kernel(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    slot_table: tl.tensor,
    starts: tl.tensor,
    lengths: tl.tensor,
    out: tl.tensor,
    num_sequences: tl.tensor,
    num_heads: tl.tensor,
    table_stride: tl.tensor,
    scale: tl.tensor,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    SEQUENCES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """One program per head and block of `BLOCK_M` new tokens of one sequence."""
    head = tl.program_id(0)
    # The last blocks of a sequence attend to the most keys, so they start first. Otherwise a long block could still be running
    # when all others are done.
    program = tl.num_programs(1) - 1 - tl.program_id(1)
    sequence, block = block_of(program, starts, num_sequences, SEQUENCES, BLOCK_M)
    if sequence >= num_sequences:
        return  # the grid is made for the worst case, because the host does not read `starts`
    begin = tl.load(starts + sequence)
    new = tl.load(starts + sequence + 1) - begin
    length = tl.load(lengths + sequence)

    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)  # indices among the new tokens of the sequence
    columns = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, DIM)
    inside = dims < HEAD_DIM
    positions = length - new + rows
    places = ((begin + rows).to(tl.int64) * num_heads + head)[:, None] * HEAD_DIM + dims[None, :]
    mine = (rows < new)[:, None] & inside[None, :]
    q = tl.load(query + places, mask=mine, other=0.0)
    table = slot_table + sequence.to(tl.int64) * table_stride

    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    summed = tl.zeros((BLOCK_M, DIM), tl.float32)
    end = tl.minimum(length, length - new + (block + 1) * BLOCK_M)  # the position after the last row's own token
    for first in range(0, end, BLOCK_N):
        seen = first + columns < end
        slots = tl.load(table + first + columns, mask=seen, other=0).to(tl.int64)
        cells = (slots * num_heads + head)[:, None] * HEAD_DIM + dims[None, :]
        wanted = seen[:, None] & inside[None, :]
        key = tl.load(keys + cells, mask=wanted, other=0.0)
        # "ieee" keeps float32 exact. Tensor cores would cut the mantissa to the 10 bits of TF32.
        score = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        score = tl.where((first + columns)[None, :] <= positions[:, None], score, float("-inf"))
        # Every row attends to the first key, so the maximum of a row is finite from the first tile on.
        higher = tl.maximum(highest, tl.max(score, 1))
        before = tl.exp2(highest - higher)
        weight = tl.exp2(score - higher[:, None])
        value = tl.load(values + cells, mask=wanted, other=0.0)
        total = total * before + tl.sum(weight, 1)
        summed = tl.dot(weight.to(value.dtype), value, summed * before[:, None], input_precision="ieee")
        highest = higher
    tl.store(out + places, (summed / total[:, None]).to(out.dtype.element_ty), mask=mine)


def prefill_config(dtype: torch.dtype, head_dim: int, tokens_per_sequence: int, arch: int) -> dict[str, int]:
    """Choose block sizes, warps and stages from `TILES`."""
    if dtype == torch.float32:
        kind = "float32"
    elif tokens_per_sequence <= 16:
        kind = "few tokens"
    else:
        kind = "hopper" if arch == 90 else "others"
    dim = max(power_of_two(head_dim), 16)  # a tensor core sums over at least 16 dimensions
    block_m, block_n, warps, stages = next(tile for widest, tile in TILES[kind].items() if dim <= widest)
    sizes = {"HEAD_DIM": head_dim, "DIM": dim, "BLOCK_M": block_m, "BLOCK_N": block_n}
    return {**sizes, "num_warps": warps, "num_stages": stages}


def prefill_attention_triton(
    query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    """Run `labkit.ops.prefill_attention` as a Triton kernel.

    Matrix products take inputs in the dtype of the tensors; sums and softmax are in float32. The host does not read the values
    of any tensor.
    """
    tokens, num_heads, head_dim = query.shape
    sequences = lengths.shape[0]
    query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
    starts, lengths = starts.contiguous(), lengths.contiguous()
    if slot_table.stride(1) != 1:
        slot_table = slot_table.contiguous()
    out = torch.empty_like(query)
    config = prefill_config(query.dtype, head_dim, ceil_div(tokens, max(sequences, 1)), arch_of(query.device))
    # The last block of each sequence may be only partly filled, so this is the largest possible number of blocks.
    grid = (num_heads, min(tokens // config["BLOCK_M"] + sequences, tokens))
    tensors = query, keys, values, slot_table, starts, lengths, out
    scale = math.log2(math.e) / math.sqrt(head_dim)  # a GPU computes exp2 in one instruction
    numbers = sequences, num_heads, slot_table.stride(0), scale
    launch(prefill_attention_kernel, grid, *tensors, *numbers, **config, SEQUENCES=power_of_two(max(sequences, FEWEST)))
    return out
