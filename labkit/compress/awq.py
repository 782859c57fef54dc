"""AWQ: weights that are multiplied by large activations are scaled up before rounding, which makes their error smaller.

J. Lin et al.: AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration (2023),
https://arxiv.org/abs/2306.00978.

For any positive s, W x = (W diag(s)) (x / s). AWQ rounds W diag(s) with s = mean|x|^alpha. It searches the alpha from 0 to 1
with the smallest output error || Q(W diag(s)) diag(s)^-1 X - W X ||. The division of x by s is folded into the operation before
the layer. This is exact only if that operation is linear in each channel (see `folds`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress.scales import searched

STEPS = 20
"""The number of values of alpha above 0 that are tried."""


def output_error(difference: Tensor, hessian: Tensor) -> float:
    """The mean squared error of a layer's output, summed over its features: trace(D H D^T) for a weight error D `[out, in]`."""
    return float(((difference @ hessian) * difference).sum())


def search_scales(weight: Tensor, hessian: Tensor, magnitude: Tensor, scheme: IntegerScheme) -> Tensor:
    """Search the factors s `[in]` for the columns of a dense `[out, in]` matrix; they are all 1 if no scaling lowers the error.

    `hessian` `[in, in]` is the mean of x x^T; `magnitude` `[in]` is the mean of |x|. The scales of the groups are searched
    again for each alpha.
    """
    best, least = torch.ones_like(magnitude), torch.inf
    for step in range(STEPS + 1):
        factors = magnitude.clamp_min(1e-4 * float(magnitude.max()) or 1.0).pow(step / STEPS)
        factors = factors / (factors.max() * factors.min()).sqrt()
        scaled = weight * factors
        grid = searched(scaled, scheme, hessian.diagonal() / factors.square())
        error = output_error(grid.round(scaled).dequantize() / factors - weight, hessian)
        if error < least:
            best, least = factors, error
    return best
