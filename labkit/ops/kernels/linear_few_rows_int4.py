"""Multiplies a few rows by an int4 matrix on tensor cores. Two instructions turn a nibble into a weight."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_epilogue import epilogue_triton
from labkit.ops.kernels.linear_few_rows import store_total, tiling
from labkit.ops.kernels.triton_runtime import jit, jit_once_for_all, launch, tl
from labkit.weight_formats import Int4Weight

PER_WORD = 4
"""The number of nibbles in a 16-bit word. A register holds two words, and an instruction processes both words at once."""


@jit
def nibble_weights(words: tl.tensor, scales: tl.tensor, PLACE: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """Compute scale * (nibble - 8) in `dtype`, for the nibble at bits 4 PLACE to 4 PLACE + 3 of each 16-bit word."""
    byte = words if PLACE < 2 else words >> 8
    # With the exponent of 2^10, a float16 has steps of 1. The low nibble becomes 1024 + nibble. The high nibble is not shifted
    # and becomes 1024 + 16 nibble. The lines below turn both into nibble - 8 without rounding, so only the multiplication by
    # the scale rounds.
    if PLACE % 2 == 0:
        number = ((byte & 0x0F) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    else:
        number = ((byte & 0xF0) | 0x6400).to(tl.float16, bitcast=True) * 0.0625 - 72.0
    if dtype == tl.float16:
        return number * scales
    return (number.to(tl.float32) * scales.to(tl.float32)).to(dtype)  # bfloat16 would round the scale too


@jit_once_for_all("num_rows")
def few_rows_int4_kernel(
    x: tl.tensor,
    packed: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    num_in: tl.tensor,
    num_out: tl.tensor,
    num_words: tl.tensor,
    num_groups: tl.tensor,
    part_words: tl.tensor,
    GELU: tl.constexpr,
    PARTIAL: tl.constexpr,
    GROUP: tl.constexpr,
    PER_WORD: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
) -> None:
    """Works like `few_rows_kernel`.

    The first `tl.dot` uses the first nibble of every word, the second `tl.dot` uses the second nibble, and so on.
    """
    BLOCK_WORDS: tl.constexpr = BLOCK_IN // PER_WORD
    GROUP_WORDS: tl.constexpr = GROUP // PER_WORD
    BLOCK_GROUPS: tl.constexpr = BLOCK_IN // GROUP
    outs = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out_inside, row_inside = (outs < num_out)[:, None], (rows < num_rows)[:, None]
    matrix_row = packed + outs.to(tl.int64)[:, None] * num_words
    scales_row = scales + outs[:, None] * num_groups
    x_row = x + rows[:, None] * num_in
    total = tl.zeros((BLOCK_OUT, BLOCK_ROWS), tl.float32)
    first = tl.program_id(2) * part_words
    for start in range(first, first + part_words, BLOCK_WORDS):
        words = (start + tl.arange(0, BLOCK_WORDS))[None, :]
        groups = (start // GROUP_WORDS + tl.arange(0, BLOCK_GROUPS))[None, :]
        ins = (start * PER_WORD + tl.arange(0, BLOCK_IN))[None, :]
        w = tl.load(matrix_row + words, mask=out_inside & (words < num_words), other=0, eviction_policy="evict_first")
        w = w.to(tl.uint16, bitcast=True)
        scale = tl.load(scales_row + groups, mask=out_inside & (groups < num_groups), other=0.0)
        scale = tl.broadcast_to(scale[:, :, None], (BLOCK_OUT, BLOCK_GROUPS, GROUP_WORDS))
        scale = tl.reshape(scale, (BLOCK_OUT, BLOCK_WORDS))  # one scale per word
        values = tl.load(x_row + ins, mask=row_inside & (ins < num_in), other=0.0)
        # Each split separates the values of x by the lowest remaining bit of their position within the word.
        even, odd = tl.split(tl.reshape(values, (BLOCK_ROWS, BLOCK_WORDS, 2, 2)))
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        total = tl.dot(nibble_weights(w, scale, 0, x0.dtype), tl.trans(x0), total, input_precision="ieee")
        total = tl.dot(nibble_weights(w, scale, 1, x0.dtype), tl.trans(x1), total, input_precision="ieee")
        total = tl.dot(nibble_weights(w, scale, 2, x0.dtype), tl.trans(x2), total, input_precision="ieee")
        total = tl.dot(nibble_weights(w, scale, 3, x0.dtype), tl.trans(x3), total, input_precision="ieee")
    store_total(total, outs, rows, None, None, bias, out, num_rows, num_out, GELU, PARTIAL)


def few_rows_int4_triton(x: Tensor, weight: Int4Weight, bias: Tensor | None, *, gelu: bool, config: dict[str, int]) -> Tensor:
    """Return `[rows, out]` for `x` `[rows, in]`. The group size must be a multiple of 4 that divides BLOCK_IN."""
    (num_out, num_in), rows = weight.shape, x.shape[0]
    words = weight.packed.contiguous().view(torch.int16)
    blocks = {name: value for name, value in config.items() if name != "PARTS"}
    grid, part_in = tiling(rows, num_out, num_in, config)
    parts = grid[2]
    if parts == 1:
        out = torch.empty((rows, num_out), dtype=x.dtype, device=x.device)
    else:
        out = torch.empty((parts, rows, num_out), dtype=torch.float32, device=x.device)
    launch(
        few_rows_int4_kernel,
        grid,
        *(
            x,
            words,
            weight.scales,
            bias,
            out,
            rows,
            num_in,
            num_out,
            words.shape[1],
            weight.scales.shape[1],
            part_in // PER_WORD,
        ),
        GELU=gelu,
        PARTIAL=parts > 1,
        GROUP=weight.group_size,
        PER_WORD=PER_WORD,
        **blocks,
    )
    return out if parts == 1 else epilogue_triton(out, x.dtype, bias=bias, gelu=gelu)
