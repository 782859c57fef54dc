"""Layer norm over the hidden dimension."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from labkit.native import operations
from labkit.ops.backend import on_native, on_triton
from labkit.ops.registry import operation


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """The specification of `layer_norm`, in torch."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, epsilon)


@operation
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last dimension (Ba et al. 2016).

    `x` `[tokens, hidden_size]`, `weight` and `bias` `[hidden_size]`; same shape and dtype out. The variance is the
    biased one.
    """
    if on_native(x):
        return operations.layer_norm(x, weight, bias, epsilon)
    if on_triton(x):
        from labkit.ops.kernels.layer_norm import layer_norm_triton

        return layer_norm_triton(x, weight, bias, epsilon)
    return layer_norm_reference(x, weight, bias, epsilon)
