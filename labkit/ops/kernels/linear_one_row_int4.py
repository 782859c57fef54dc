"""Multiplies one row by an int4 matrix, with three instructions per weight and no type conversion."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_epilogue import epilogue
from labkit.ops.kernels.triton_runtime import ceil_div, jit, launch, tl
from labkit.weight_formats import Int4Weight

WORDS = 4
"""The number of 32-bit words that a thread loads at once. They hold 32 neighbouring weights of a row."""
ONE = 0x3F800000
"""The bits of 1.0. They are an argument of the kernel, because a second constant would cost a second instruction."""


@jit
def add_byte(
    total: tl.tensor, words: tl.tensor, x_low: tl.tensor, x_high: tl.tensor, one: tl.tensor, BYTE: tl.constexpr
) -> tl.tensor:
    """Compute total + (1 + low / 256) 16 x_low + (1 + high / 16) x_high, for the two nibbles of one byte of each word.

    A nibble becomes a float without a shift. With the exponent of 1, the four highest of the 23 fraction bits count sixteenths,
    and the next four count 256ths. `one` holds the bits of 1.0. This 1 is subtracted later, from the sum. This saves one
    subtraction per weight, but about four of float32's 24 bits of precision are lost.
    """
    SHIFT: tl.constexpr = 15 - 8 * BYTE  # moves the byte to the top of the 23 fraction bits
    placed = words << SHIFT if SHIFT > 0 else words >> -SHIFT
    low = ((placed & 0x078000) | one).to(tl.float32, bitcast=True)
    high = ((placed & 0x780000) | one).to(tl.float32, bitcast=True)
    return total + low * (16 * x_low)[None] + high * x_high[None]


@jit
def one_row_int4_kernel(
    x: tl.tensor,
    packed: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_in: tl.tensor,
    num_out: tl.tensor,
    num_words: tl.tensor,
    num_groups: tl.tensor,
    one: tl.tensor,
    GELU: tl.constexpr,
    VECTORS_IN_GROUP: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_VECTORS: tl.constexpr,
) -> None:
    """One program for BLOCK_OUT outputs; a vector is the 4 words of one group that a thread loads at once."""
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    out_inside = outs < num_out
    matrix_row = packed + outs.to(tl.int64)[:, None, None] * num_words
    scales_row = scales + outs[:, None] * num_groups
    total = tl.zeros((BLOCK_OUT, BLOCK_VECTORS), tl.float32)
    for start in range(0, num_words // WORDS, BLOCK_VECTORS):
        vectors = start + tl.arange(0, BLOCK_VECTORS)
        words = vectors[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
        inside = words < num_words
        w = tl.load(
            matrix_row + words[None], mask=out_inside[:, None, None] & inside[None], other=0, eviction_policy="evict_first"
        ).to(tl.uint32, bitcast=True)
        ins = words[:, :, None] * 8 + tl.arange(0, 8)[None, None, :]
        values = tl.load(x + ins, mask=ins < num_in, other=0.0).to(tl.float32)  # [BLOCK_VECTORS, WORDS, 8]
        # Each split separates the values of x by the lowest remaining bit of their position within the word.
        even, odd = tl.split(tl.reshape(values, (BLOCK_VECTORS, WORDS, 4, 2)))
        x04, x26 = tl.split(tl.reshape(even, (BLOCK_VECTORS, WORDS, 2, 2)))
        x15, x37 = tl.split(tl.reshape(odd, (BLOCK_VECTORS, WORDS, 2, 2)))
        x0, x4 = tl.split(x04)
        x1, x5 = tl.split(x15)
        x2, x6 = tl.split(x26)
        x3, x7 = tl.split(x37)
        product = add_byte(tl.zeros(w.shape, tl.float32), w, x0, x1, one, 0)
        product = add_byte(product, w, x2, x3, one, 1)
        product = add_byte(product, w, x4, x5, one, 2)
        product = add_byte(product, w, x6, x7, one, 3)
        # The amount that the 1s and the offset of 8 have added. It is the same for every output.
        offset = tl.sum(264.0 * (x0 + x2 + x4 + x6) + 24.0 * (x1 + x3 + x5 + x7), 1)
        group_inside = out_inside[:, None] & (vectors * WORDS < num_words)[None, :]
        scale = tl.load(scales_row + (vectors // VECTORS_IN_GROUP)[None, :], mask=group_inside, other=0.0)
        total += (16.0 * tl.sum(product, 2) - offset[None]) * scale.to(tl.float32)
    result = epilogue(tl.sum(total, 1), 0, outs, 1, num_out, None, None, bias, GELU)
    tl.store(out + outs, result.to(out.dtype.element_ty), mask=out_inside)


def one_row_int4_triton(x: Tensor, weight: Int4Weight, bias: Tensor | None, *, gelu: bool, config: dict[str, int]) -> Tensor:
    """Return `[1, out]` for `x` `[1, in]`. The group size must be a multiple of 32, because a thread loads 32 weights."""
    num_out, num_in = weight.shape
    words = weight.packed.contiguous().view(torch.int32)
    out = torch.empty((1, num_out), dtype=x.dtype, device=x.device)
    launch(
        one_row_int4_kernel,
        (ceil_div(num_out, config["BLOCK_OUT"]),),
        *(x, words, weight.scales, bias, out, num_in, num_out, words.shape[1], weight.scales.shape[1], ONE),
        GELU=gelu,
        VECTORS_IN_GROUP=weight.group_size // (8 * WORDS),
        WORDS=WORDS,
        **config,
    )
    return out
