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

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.output_error import fit_scales, least_error, output_error
from labkit.compress.scales import Grid, searched

STEPS = 20
"""The number of values of alpha above 0 that are tried."""
REFINEMENTS = 3
"""How many times `round_with_fitted_scales` fits the scales to the integers."""


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


def round_with_fitted_scales(weight: Tensor, hessian: Tensor, scheme: IntegerScheme) -> IntegerWeight:
    """Round every number of a dense `[out, in]` matrix to the nearest integer, with scales that fit the layer's output.

    Scales from `searched` are fitted to their integers, then the numbers are rounded again with the new scales, and so on. Each
    row keeps the best result. `hessian` `[in, in]` is the mean of x x^T.
    """
    best = searched(weight, scheme, hessian.diagonal()).round(weight)
    for _ in range(REFINEMENTS):
        best = fit_scales(weight, best, hessian)
        best = least_error(weight, hessian, best, Grid(scheme, best.scales, best.zero_points).round(weight))
    return best
