"""Runs the epilogue of a linear layer: adds up the partial sums of several programs, and applies scales, bias and GELU."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import ceil_div, jit, jit_once_for_all, launch, tl

BLOCK_ROWS, BLOCK_OUT = 4, 256


@jit
def gelu_tanh(x: tl.tensor) -> tl.tensor:
    """The tanh form of GELU in float32; (1 + tanh(u)) / 2 equals sigmoid(2u), which needs one exponential."""
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))  # 2 sqrt(2 / pi)


@jit
def epilogue(
    total: tl.tensor,
    rows: tl.tensor,
    outs: tl.tensor,
    num_rows: tl.tensor,
    num_out: tl.tensor,
    row_scales: tl.tensor,
    out_scales: tl.tensor,
    bias: tl.tensor,
    GELU: tl.constexpr,
) -> tl.tensor:
    """Turn sums of products into the layer's result in float32.

    `total`, `rows` and `outs` have the same number of dimensions and are broadcast; the three pointers may be None.
    """
    result = total.to(tl.float32)
    if row_scales is not None:
        result *= tl.load(row_scales + rows, mask=rows < num_rows, other=0.0)
    if out_scales is not None:
        result *= tl.load(out_scales + outs, mask=outs < num_out, other=0.0)
    if bias is not None:
        result += tl.load(bias + outs, mask=outs < num_out, other=0.0).to(tl.float32)
    if GELU:
        result = gelu_tanh(result)
    return result


@jit_once_for_all("num_rows")
def epilogue_kernel(
    partial: tl.tensor,
    row_scales: tl.tensor,
    out_scales: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    num_out: tl.tensor,
    GELU: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """Add the parts in a fixed order, so that repeated runs return the same bits, no matter which program finished first."""
    rows = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    outs = (tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT))[None, :]
    inside = (rows < num_rows) & (outs < num_out)
    place = rows.to(tl.int64) * num_out + outs  # 64 bits: rows * num_out can pass 2^31
    total = tl.load(partial + place, mask=inside, other=0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(partial + (rows.to(tl.int64) + part * num_rows) * num_out + outs, mask=inside, other=0)
    result = epilogue(total, rows, outs, num_rows, num_out, row_scales, out_scales, bias, GELU)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


def epilogue_triton(
    partial: Tensor,
    dtype: torch.dtype,
    *,
    row_scales: Tensor | None = None,
    out_scales: Tensor | None = None,
    bias: Tensor | None = None,
    gelu: bool = False,
) -> Tensor:
    """Add the parts `[parts, rows, out]` (float32 or int32), and apply scales, bias and GELU.

    Returns `[rows, out]` in `dtype`.
    """
    parts, rows, num_out = partial.shape
    out = torch.empty((rows, num_out), dtype=dtype, device=partial.device)
    launch(
        epilogue_kernel,
        (ceil_div(rows, BLOCK_ROWS), ceil_div(num_out, BLOCK_OUT)),
        *(partial, row_scales, out_scales, bias, out, rows, num_out),
        GELU=gelu,
        PARTS=parts,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_OUT=BLOCK_OUT,
        num_warps=4,
    )
    return out
