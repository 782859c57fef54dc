"""Computes a linear layer with GELU. The kernels of `linear` apply GELU before they write the result."""

from __future__ import annotations

from torch import Tensor

from labkit.ops.kernels.linear import linear_triton
from labkit.ops.kernels.linear_kind import GPUWeight


def linear_gelu_triton(x: Tensor, weight: GPUWeight, bias: Tensor | None = None) -> Tensor:
    """Compute `labkit.ops.linear_gelu` for any kind of weight. Raises the same errors as `linear_triton`."""
    return linear_triton(x, weight, bias, gelu=True)
