"""Multiplies one row by a dense matrix. Nearly all of the time is spent reading the matrix once.

Tensor cores are not used. Two instructions per weight are fast enough to keep up with the memory, and a tensor core's tile
would be almost empty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_epilogue import epilogue
from labkit.ops.kernels.triton_runtime import ceil_div, jit, launch, tl


@jit
def one_row_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_in: tl.tensor,
    num_out: tl.tensor,
    GELU: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    VECTOR: tl.constexpr,
) -> None:
    """One program for BLOCK_OUT outputs. All loads of one step (BLOCK_OUT * BLOCK_IN weights) are in flight together."""
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    matrix_row = weight + outs.to(tl.int64)[:, None, None] * num_in  # 64 bits: the matrix can have 2^31 weights
    # The last dimension holds the 16 bytes that one thread loads at once. The thread adds up their products and keeps one float
    # for VECTOR weights. The sums of the threads are added up at the end.
    neighbours = tl.arange(0, BLOCK_IN // VECTOR)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    total = tl.zeros((BLOCK_OUT, BLOCK_IN // VECTOR), tl.float32)
    for start in range(0, num_in, BLOCK_IN):
        ins = start + neighbours
        inside = (outs < num_out)[:, None, None] & (ins < num_in)[None]
        # Weights are used only once, so the L2 cache may evict them first. Then x and the data of other kernels stay in the
        # cache.
        w = tl.load(matrix_row + ins[None], mask=inside, other=0, eviction_policy="evict_first")
        values = tl.load(x + ins, mask=ins < num_in, other=0.0)
        total += tl.sum(w.to(tl.float32) * values.to(tl.float32)[None], 2)
    result = epilogue(tl.sum(total, 1), 0, outs, 1, num_out, None, None, bias, GELU)
    tl.store(out + outs, result.to(out.dtype.element_ty), mask=outs < num_out)


def one_row_triton(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool, config: dict[str, int]) -> Tensor:
    """Return `[1, out]` for `x` `[1, in]` and `weight` `[out, in]`, both in a float type."""
    num_out, num_in = weight.shape
    out = torch.empty((1, num_out), dtype=x.dtype, device=x.device)
    grid = (ceil_div(num_out, config["BLOCK_OUT"]),)
    vector = 16 // weight.element_size()
    launch(one_row_kernel, grid, x, weight, bias, out, num_in, num_out, GELU=gelu, VECTOR=vector, **config)
    return out
