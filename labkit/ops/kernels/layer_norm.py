"""Computes layer norm with one read and one write of each row, because a program keeps a whole row in registers."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import jit, launch, power_of_two, tl


def row_config(hidden_size: int) -> dict[str, int]:
    """Return launch options for one row per program: a block of at least `hidden_size` values, and 16 values per thread."""
    block = power_of_two(hidden_size)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 32)}


@jit
def normalize(
    x: tl.tensor, weight: tl.tensor, bias: tl.tensor, columns: tl.tensor, hidden_size: tl.tensor, epsilon: tl.tensor
) -> tl.tensor:
    """Return the layer norm of a row `x` in float32. From column `hidden_size` on, `x` must be zero."""
    inside = columns < hidden_size
    mean = tl.sum(x, 0) / hidden_size
    # Subtract the mean first: E[x^2] - E[x]^2 loses digits where the mean is much larger than the spread.
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / hidden_size
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    return centred * tl.rsqrt(variance + epsilon) * scale + shift


@jit
def layer_norm_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    hidden_size: tl.tensor,
    epsilon: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row."""
    start = tl.program_id(0).to(tl.int64) * hidden_size  # 64 bits: tokens * hidden_size can pass 2^31
    columns = tl.arange(0, BLOCK)
    inside = columns < hidden_size
    row = tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
    normed = normalize(row, weight, bias, columns, hidden_size, epsilon)
    tl.store(out + start + columns, normed.to(out.dtype.element_ty), mask=inside)


def layer_norm_triton(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Run `labkit.ops.layer_norm` as a Triton kernel. Sums are in float32."""
    x = x.contiguous()
    out = torch.empty_like(x)
    hidden_size = x.shape[-1]
    rows = x.numel() // hidden_size
    launch(
        layer_norm_kernel,
        (rows,),
        x,
        weight.contiguous(),
        bias.contiguous(),
        out,
        hidden_size,
        epsilon,
        **row_config(hidden_size),
    )
    return out
