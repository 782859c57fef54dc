"""Linear layers: the matrix products that read almost every byte of the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.native.packed_weight import PackedWeight
from labkit.ops.registry import operation
from labkit.ops.torch_packed import TorchPackedWeight
from labkit.weight_formats import QuantizedWeight, RoundedInputsWeight

Weight = Tensor | QuantizedWeight | PackedWeight | TorchPackedWeight
"""The `[out, in]` matrix of a linear layer: dense, quantized, or packed for the CPU's kernels."""
PACKED = PackedWeight, TorchPackedWeight
"""The weight types that have a kernel of their own. The method `multiply` of such a weight runs the kernel."""


def linear_reference(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """The reference implementation of `linear` in PyTorch; a quantized weight is first dequantized to the dtype of `x`.

    If the weight format also rounds activations, `x` is rounded, and the matrix product and the addition of the bias are
    computed in float32 or wider.
    """
    if isinstance(weight, RoundedInputsWeight):
        return _rounded_product(x, weight, bias)
    dense = weight if isinstance(weight, Tensor) else weight.dequantize(x.dtype)
    return F.linear(x, dense, bias)


def _rounded_product(x: Tensor, weight: RoundedInputsWeight, bias: Tensor | None) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    values, scales = weight.round_inputs(x)
    product = F.linear(values.to(wide), weight.values.to(wide)) * scales[:, None] * weight.scales
    return (product if bias is None else product + bias).to(x.dtype)


@operation()
def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """Return x weight^T + bias, `[tokens, out]`. `x` is `[tokens, in]`, `weight` is `[out, in]`, `bias` is `[out]` or None.

    For a packed weight, the weight's own kernel runs.
    """
    if isinstance(weight, PACKED):
        return weight.multiply(x, bias)
    return linear_reference(x, weight, bias)
