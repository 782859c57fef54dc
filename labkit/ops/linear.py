"""The matrix product that reads almost every byte of the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.native.packed_weight import PackedWeight
from labkit.ops.backend import on_triton
from labkit.ops.registry import operation
from labkit.ops.torch_packed import TorchPackedWeight
from labkit.weight_formats import DynamicWeight, QuantizedWeight

Weight = Tensor | QuantizedWeight | PackedWeight | TorchPackedWeight
"""What a linear layer multiplies by: `[out, in]`, dense, quantized, or packed for the CPU's kernels."""


def linear_reference(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """The specification of `linear`, in torch; a quantized weight is spread out to the dtype of `x` first.

    Where the format rounds activations too, those are rounded, and product and bias are in float32 at least.
    """
    if isinstance(weight, DynamicWeight):
        return _rounded_product(x, weight, bias)
    dense = weight if isinstance(weight, Tensor) else weight.dequantize(x.dtype)
    return F.linear(x, dense, bias)


def _rounded_product(x: Tensor, weight: DynamicWeight, bias: Tensor | None) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    values, scales = weight.round_activations(x)
    product = F.linear(values.to(wide), weight.values.to(wide)) * scales[:, None] * weight.scales
    return (product if bias is None else product + bias).to(x.dtype)


@operation
def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: `x` `[tokens, in]`, `weight` `[out, in]`, `bias` `[out]` or none; `[tokens, out]` out."""
    if isinstance(weight, PackedWeight | TorchPackedWeight):
        return weight.multiply(x, bias)
    if on_triton(x):
        from labkit.ops.kernels.linear import linear_triton

        return linear_triton(x, weight, bias)
    return linear_reference(x, weight, bias)
