"""Layer normalization over the hidden dimension."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from labkit.native import operations
from labkit.ops.registry import operation


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """The reference implementation of `layer_norm` in PyTorch."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, epsilon)


@operation(native=operations.layer_norm)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Return (x - mean) / sqrt(variance + epsilon) * weight + bias over the last dimension (Ba et al. 2016).

    `x` is `[tokens, hidden_size]`, `weight` and `bias` are `[hidden_size]`. Returns a tensor of the shape and dtype of `x`. The
    variance is biased: the sum of squares is divided by hidden_size, not by hidden_size - 1.
    """
    return layer_norm_reference(x, weight, bias, epsilon)
