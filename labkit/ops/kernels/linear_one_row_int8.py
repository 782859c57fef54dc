"""Multiplies one row by an int8 matrix, with three instructions per weight and no type conversion."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_epilogue import epilogue
from labkit.ops.kernels.triton_runtime import ceil_div, jit, launch, tl
from labkit.weight_formats import Int8Weight

WORDS = 4
"""The number of 32-bit words that a thread loads at once. They hold 16 neighbouring weights of a row."""
ONE = 0x3FC00000
"""The bits of 1.0, plus the bit that flips the sign of a byte.

This number is an argument of the kernel, because a second constant would cost a second instruction.
"""


@jit
def as_float(words: tl.tensor, one: tl.tensor) -> tl.tensor:
    """Compute 1 + (byte + 128) / 256, for the signed byte at the top of a float's 23 fraction bits.

    Flipping the sign bit adds the 128. The added amounts are subtracted later, from the sum. This saves one subtraction per
    weight, but about four of float32's 24 bits of precision are lost.
    """
    return ((words & 0x7F8000) ^ one).to(tl.float32, bitcast=True)


@jit
def one_row_int8_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_in: tl.tensor,
    num_out: tl.tensor,
    num_words: tl.tensor,
    one: tl.tensor,
    GELU: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_VECTORS: tl.constexpr,
) -> None:
    """One program for BLOCK_OUT outputs; a vector is the 4 words that a thread loads at once."""
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    out_inside = outs < num_out
    matrix_row = weight + outs.to(tl.int64)[:, None, None] * num_words
    total = tl.zeros((BLOCK_OUT, BLOCK_VECTORS), tl.float32)
    for start in range(0, tl.cdiv(num_words, WORDS), BLOCK_VECTORS):
        vectors = start + tl.arange(0, BLOCK_VECTORS)
        words = vectors[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
        inside = words < num_words
        # Weights are used only once, so the L2 cache may evict them first. Then x and the data of other kernels stay in the
        # cache.
        w = tl.load(
            matrix_row + words[None], mask=out_inside[:, None, None] & inside[None], other=0, eviction_policy="evict_first"
        ).to(tl.uint32, bitcast=True)
        ins = words[:, :, None] * 4 + tl.arange(0, 4)[None, None, :]
        values = tl.load(x + ins, mask=ins < num_in, other=0.0).to(tl.float32)  # [BLOCK_VECTORS, WORDS, 4]
        # Each split separates the values of x by the lowest remaining bit of their position within the word.
        even, odd = tl.split(tl.reshape(values, (BLOCK_VECTORS, WORDS, 2, 2)))
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        product = as_float(w << 15, one) * x0[None] + as_float(w << 7, one) * x1[None]
        product += as_float(w >> 1, one) * x2[None]
        product += as_float(w >> 9, one) * x3[None]
        # The amount that the 1s and the 128 have added. It is the same for every output.
        offset = tl.sum(x0 + x1 + x2 + x3, 1)
        total += 256.0 * tl.sum(product, 2) - 384.0 * offset[None]
    result = epilogue(tl.sum(total, 1), 0, outs, 1, num_out, None, scales, bias, GELU)
    tl.store(out + outs, result.to(out.dtype.element_ty), mask=out_inside)


def one_row_int8_triton(x: Tensor, weight: Int8Weight, bias: Tensor | None, *, gelu: bool, config: dict[str, int]) -> Tensor:
    """Return `[1, out]` for `x` `[1, in]`. The number of inputs must be a multiple of 4, so that rows are whole words."""
    num_out, num_in = weight.shape
    words = weight.values.contiguous().view(torch.int32)
    out = torch.empty((1, num_out), dtype=x.dtype, device=x.device)
    launch(
        one_row_int8_kernel,
        (ceil_div(num_out, config["BLOCK_OUT"]),),
        *(x, words, weight.scales, bias, out, num_in, num_out, words.shape[1], ONE),
        GELU=gelu,
        WORDS=WORDS,
        **config,
    )
    return out
