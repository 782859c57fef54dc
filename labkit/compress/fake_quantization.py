"""Rounding for training: gradients pass straight through the rounding, and the scales are learned as well.

The straight-through estimator treats rounding as the identity in the backward pass (Y. Bengio et al.: Estimating or Propagating
Gradients Through Stochastic Neurons, 2013, https://arxiv.org/abs/1308.3432). The gradient of the scale comes from S. Esser et
al.: Learned Step Size Quantization (LSQ, 2020), https://arxiv.org/abs/1902.08153. With x = w / scale, this gradient is round(x)
- x where x is inside the range. Where x is clipped, the gradient is the end of the range. LSQ also multiplies this gradient by
a constant for each matrix. Here the constant is left out, because Adam divides by the size of the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.scales import to_integers


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    """Return the values of `rounded`, with the gradient of `exact`. Both tensors must have the same shape."""
    return exact + (rounded - exact).detach()


def fake_quantized(weight: Tensor, scales: Tensor, scheme: IntegerScheme) -> Tensor:
    """Quantize a matrix `[out, in]` with `scales` `[out, groups]`, and convert the result back to floating point.

    Gradients flow to the matrix and to the scales. The scheme must be symmetric. Scales are rounded to float16, because the
    files store scales in float16. In the backward pass, this rounding is also treated as the identity.
    """
    groups = weight.view(*scales.shape, -1)
    stored = straight_through(scales, scales.to(torch.float16).to(scales.dtype))[..., None]
    inside = (groups / stored).clamp(scheme.lowest, scheme.highest)
    return (straight_through(inside, inside.round()) * stored).view_as(weight)


def quantized(weight: Tensor, scales: Tensor, scheme: IntegerScheme) -> IntegerWeight:
    """Return the values that `fake_quantized` returns, but as integers with their scales."""
    stored = scales.to(torch.float16)
    values = to_integers(weight.view(*scales.shape, -1), stored[..., None], None, scheme)
    return IntegerWeight(scheme, values.view(weight.shape), stored)
