"""The matrix product that reads almost every byte of the model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from labkit.native.packed_weight import PackedWeight
from labkit.ops.registry import operation
from labkit.ops.weights import QuantizedWeight

Weight = Tensor | QuantizedWeight | PackedWeight
"""What a linear layer multiplies by: `[out, in]`, dense, quantized, or packed for the CPU's kernels."""


def linear_reference(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """The specification of `linear`, in torch; a quantized weight is spread out to the dtype of `x` first."""
    dense = weight if isinstance(weight, Tensor) else weight.dequantize(x.dtype)
    return F.linear(x, dense, bias)


@operation
def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: `x` `[tokens, in]`, `weight` `[out, in]`, `bias` `[out]` or none; `[tokens, out]` out."""
    if isinstance(weight, PackedWeight):
        return weight.multiply(x, bias)
    return linear_reference(x, weight, bias)
