"""Computes the residual sum of three tensors and the layer norm of this sum. The kernel keeps the sum in registers."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.layer_norm import normalize, row_config
from labkit.ops.kernels.triton_runtime import jit, launch, tl


@jit
def residual_layer_norm_kernel(
    residual: tl.tensor,
    attention: tl.tensor,
    mlp: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    hidden: tl.tensor,
    normed: tl.tensor,
    hidden_size: tl.tensor,
    epsilon: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row."""
    start = tl.program_id(0).to(tl.int64) * hidden_size  # 64 bits: tokens * hidden_size can pass 2^31
    columns = tl.arange(0, BLOCK)
    inside = columns < hidden_size
    row = tl.load(attention + start + columns, mask=inside, other=0.0).to(tl.float32)
    row += tl.load(mlp + start + columns, mask=inside, other=0.0).to(tl.float32)
    row += tl.load(residual + start + columns, mask=inside, other=0.0).to(tl.float32)
    stored = row.to(hidden.dtype.element_ty)
    tl.store(hidden + start + columns, stored, mask=inside)
    # Normalize the sum as it is stored, after rounding. Separate kernels for the sum and the norm then return the same numbers.
    out = normalize(stored.to(tl.float32), weight, bias, columns, hidden_size, epsilon)
    tl.store(normed + start + columns, out.to(normed.dtype.element_ty), mask=inside)


def residual_layer_norm_triton(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Run `labkit.ops.residual_layer_norm` as a Triton kernel. Sums are in float32 and rounded once."""
    residual, attention, mlp = residual.contiguous(), attention.contiguous(), mlp.contiguous()
    hidden, normed = torch.empty_like(residual), torch.empty_like(residual)
    hidden_size = residual.shape[-1]
    tensors = residual, attention, mlp, weight.contiguous(), bias.contiguous(), hidden, normed
    grid = (residual.numel() // hidden_size,)
    launch(residual_layer_norm_kernel, grid, *tensors, hidden_size, epsilon, **row_config(hidden_size))
    return hidden, normed
