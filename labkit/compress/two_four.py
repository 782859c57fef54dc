"""2:4 masks, which keep two of every four neighbouring weights in a row of a matrix.

Since the Ampere generation, NVIDIA's tensor cores multiply such matrices in half the time (A. Mishra et al.: Accelerating
Sparse Deep Neural Networks (2021), https://arxiv.org/abs/2104.08378). A mask is a bool tensor `[out, in]`; True means kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.errors import InvalidRequest

GROUP, KEPT = 4, 2
"""Two of four neighbours are kept."""


def check_two_four(in_features: int, name: str) -> None:
    """Raise `InvalidRequest` if the length of a matrix's rows is not a multiple of four."""
    if in_features % GROUP:
        raise InvalidRequest(
            f"{name} has {in_features} inputs, which cannot be divided into groups of four; 2:4 sparsity needs a multiple "
            f"of {GROUP}, so use another method for this model"
        )


def two_four_mask(scores: Tensor) -> Tensor:
    """Keep the two largest of every four neighbours of `scores` `[out, in]`; among equal scores, the left one is kept.

    If the scores are the magnitudes of the weights, the result is the mask `m4n2_1d` of NVIDIA's ASP, which keeps the pair with
    the largest sum. Raises `InvalidRequest` unless `in` is a multiple of four.
    """
    check_two_four(scores.shape[1], "a matrix")
    order = torch.argsort(scores.reshape(-1, GROUP), dim=1, descending=True, stable=True)
    mask = torch.zeros_like(order, dtype=torch.bool)
    return mask.scatter_(1, order[:, :KEPT], True).view(scores.shape)


def magnitude_scores(weight: Tensor) -> Tensor:
    """The magnitude |w| of every weight, as its score."""
    return weight.abs()


def wanda_scores(weight: Tensor, squares: Tensor) -> Tensor:
    """The score of every weight in Wanda: |w| times the norm of its input.

    Wanda is described by M. Sun et al. (2023), https://arxiv.org/abs/2306.11695. `squares` `[in]` are the mean squares of the
    inputs (`InputStatistics.hessian.diagonal()`). The paper takes the sum over tokens; the mean gives the same order.
    """
    return weight.abs() * squares.clamp_min(0).sqrt()


def is_two_four(weight: Tensor) -> bool:
    """Whether every group of four neighbours in a row of `weight` `[out, in]` has at most two numbers that are not 0."""
    check_two_four(weight.shape[1], "a matrix")
    return bool(((weight != 0).view(-1, GROUP).sum(1) <= KEPT).all())


def kept_magnitude(weight: Tensor) -> float:
    """The share of the sum of magnitudes that the best 2:4 mask keeps: a number from 0.5 to 1."""
    magnitudes = weight.abs().double()
    best = magnitudes.view(-1, GROUP).topk(KEPT, dim=1).values
    return float(best.sum() / magnitudes.sum().clamp_min(torch.finfo(torch.float64).tiny))
