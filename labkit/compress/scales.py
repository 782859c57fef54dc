"""Scales and zero points: how the numbers of a group are mapped to integers.

A number w becomes the integer q = clamp(round(w / scale) + zero, lowest, highest). The integer stands for scale * (q - zero).
In a symmetric scheme, zero is 0. Scales are rounded to float16 before anything is divided by them, because the files store them
in float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.errors import InvalidRequest

SHRINKS = tuple(1 - 0.025 * step for step in range(20))
"""The shares of a group's range, from 1.0 down to 0.525, to which `searched` tries to clip the group."""
FINE_SHRINKS = tuple(1 - 0.0025 * step for step in range(12))
"""The shares that `searched` tries for 8 bits.

With 8 bits, the integers are so close together that clipping does not help, but a slightly different scale can fit a group
better.
"""
END_SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6)
"""With zero points, the upper end and the lower end of a group are each clipped to these shares, in all combinations."""
REFINEMENTS = 2
"""How many times the best scale of each group is fitted to the integers that it gives."""
ENDS = (-0.5, 0.0)
"""In symmetric schemes, `searched` maps the number of largest magnitude to `lowest - end`, for each of these ends.

With end 0, this number becomes the integer `lowest`, which has the largest magnitude of all integers; the scale can then be
negative. With end -0.5, this number lies half a step inside the range of the integers. The scale is then larger, so fewer
numbers of the other sign are clipped.
"""


@dataclass(frozen=True)
class Grid:
    """The scales `[out, groups]` float16 and the zero points `[out, groups]` int8 (None if symmetric) of a matrix."""

    scheme: IntegerScheme
    scales: Tensor
    zero_points: Tensor | None

    def round(self, weight: Tensor) -> IntegerWeight:
        """Round every number of `weight` `[out, in]` to the nearest integer of its group."""
        zeros = None if self.zero_points is None else self.zero_points[..., None]
        values = to_integers(_grouped(weight, self.scheme), self.scales[..., None], zeros, self.scheme)
        return IntegerWeight(self.scheme, values.view(weight.shape), self.scales, self.zero_points)

    def column(self, column: int, in_features: int) -> tuple[Tensor, Tensor | None]:
        """The scales and zero points `[out]` of one column."""
        group = column // self.scheme.group_of(in_features)
        return self.scales[:, group], None if self.zero_points is None else self.zero_points[:, group]


def to_integers(weight: Tensor, scales: Tensor, zero_points: Tensor | None, scheme: IntegerScheme) -> Tensor:
    """Compute clamp(round(weight / scales) + zero_points, lowest, highest) as int8; the arguments' shapes must broadcast."""
    numbers = (weight / scales.to(weight.dtype)).round_()
    if zero_points is not None:
        numbers += zero_points.to(weight.dtype)
    return numbers.clamp_(scheme.lowest, scheme.highest).to(torch.int8)


def check_group_size(scheme: IntegerScheme, in_features: int, name: str) -> None:
    """Raise `InvalidRequest` if the group size of a scheme does not divide the length of a matrix's rows."""
    size = scheme.group_size
    if size is None or in_features % size == 0:
        return
    fitting = [each for each in (16, 32, 64, 128, 256) if in_features % each == 0]
    named = ", ".join(map(str, fitting)) or "none of 16, 32, 64, 128 and 256"
    raise InvalidRequest(
        f"group size {size} does not divide the {in_features} inputs of {name}; {named} divides them, and so does a scale for "
        "each row (--group-size 0)"
    )


def nearest(weight: Tensor, scheme: IntegerScheme) -> Grid:
    """The grid for plain round to nearest: the range of the integers covers each group, and nothing is searched.

    In a symmetric scheme, scale = 2 max|w| / (2^bits - 1), as in torchao and compressed-tensors, so the largest magnitude is
    clipped by at most half a step; with 8 bits, scale = max|w| / 127, which clips nothing. In a scheme with zero points, the
    range from min(w, 0) to max(w, 0) is cut into 2^bits - 1 steps.
    """
    groups = _grouped(weight, scheme)
    if not scheme.symmetric:
        return _with_zero_points(groups, scheme)
    steps = scheme.highest if scheme.bits == 8 else scheme.highest + 0.5
    largest = torch.maximum(groups.amax(-1), -groups.amin(-1))  # abs() would copy the matrix
    return Grid(scheme, safe_scales(largest / steps), None)


def searched(weight: Tensor, scheme: IntegerScheme, importance: Tensor | None = None) -> Grid:
    """For each group, search the scale with the smallest error among candidates that clip the group differently.

    The error of a group is the sum of h_i e_i^2, where e is its rounding error and h is `importance` `[in]`: the mean squared
    input of each column, so that the sum is about the error of the layer's output. Without `importance`, h is 1. AWQ (Lin et
    al. 2023, the authors' code) and GPTQ ("mse") search the clipping of weights this way. Then the scale is fitted to the
    integers by least squares, as llama.cpp does (`make_qx_quants`): scale = sum h q w / sum h q^2.
    """
    groups = _grouped(weight, scheme)
    factors = torch.ones_like(groups[:1]) if importance is None else importance.to(groups.dtype).view(1, *groups.shape[1:])
    best, least = _least(None, groups.new_full(groups.shape[:2], torch.inf), _candidates(groups, scheme), groups, factors)
    for _ in range(REFINEMENTS):
        best, least = _least(best, least, [_fitted(best, groups, factors)], groups, factors)
    return best


def _least(best: Grid | None, least: Tensor, candidates: list[Grid], groups: Tensor, factors: Tensor) -> tuple[Grid, Tensor]:
    """For each group, take the grid with the smallest error: `best`, whose error is `least`, or one of the candidates."""
    for candidate in candidates:
        integers, scales = _integers(candidate, groups)
        error = ((integers * scales - groups).square_() * factors).sum(-1)
        better = error < least
        least = torch.where(better, error, least)
        best = candidate if best is None else _chosen(better, candidate, best)
    assert best is not None
    return best, least


def _integers(grid: Grid, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The integers minus their zero point, in the dtype of `groups`, and the scales `[out, groups, 1]`."""
    zeros = None if grid.zero_points is None else grid.zero_points[..., None]
    scales = grid.scales[..., None].to(groups.dtype)
    integers = to_integers(groups, scales, zeros, grid.scheme).to(groups.dtype)
    return integers if zeros is None else integers - zeros.to(groups.dtype), scales


def _fitted(grid: Grid, groups: Tensor, factors: Tensor) -> Grid:
    """Replace the scales of a grid by the scales that best fit the integers to which the grid rounds the groups."""
    integers, scales = _integers(grid, groups)
    down = (integers.square() * factors).sum(-1)
    fitted = (integers * groups * factors).sum(-1) / torch.where(down == 0, 1.0, down)
    return Grid(grid.scheme, safe_scales(torch.where(down == 0, scales[..., 0], fitted)), grid.zero_points)


def _candidates(groups: Tensor, scheme: IntegerScheme) -> list[Grid]:
    shrinks = SHRINKS if scheme.bits < 8 else FINE_SHRINKS
    if not scheme.symmetric:
        ends = END_SHRINKS if scheme.bits < 8 else FINE_SHRINKS[::4]
        pairs = {(shrink, shrink) for shrink in shrinks} | {(high, low) for high in ends for low in ends}
        return [_with_zero_points(groups, scheme, high, low) for high, low in sorted(pairs, reverse=True)]
    high, low = groups.amax(-1), groups.amin(-1)
    largest = torch.where(high > -low, high, low)
    ends = ENDS if scheme.bits > 1 else (0.0,)
    return [Grid(scheme, safe_scales(largest * shrink / (scheme.lowest - end)), None) for end in ends for shrink in shrinks]


def _with_zero_points(groups: Tensor, scheme: IntegerScheme, of_high: float = 1.0, of_low: float = 1.0) -> Grid:
    high, low = groups.amax(-1).clamp_min(0) * of_high, groups.amin(-1).clamp_max(0) * of_low
    scales = safe_scales((high - low) / (scheme.highest - scheme.lowest))
    zeros = (scheme.lowest - (low / scales.to(low.dtype)).round()).clamp_(scheme.lowest, scheme.highest)
    return Grid(scheme, scales, zeros.to(torch.int8))


def _chosen(better: Tensor, candidate: Grid, best: Grid) -> Grid:
    zeros = None
    if candidate.zero_points is not None and best.zero_points is not None:
        zeros = torch.where(better, candidate.zero_points, best.zero_points)
    return Grid(best.scheme, torch.where(better, candidate.scales, best.scales), zeros)


def _grouped(weight: Tensor, scheme: IntegerScheme) -> Tensor:
    """View a matrix `[out, in]` as `[out, groups, size]`."""
    check_group_size(scheme, weight.shape[1], "a matrix")
    return weight.view(weight.shape[0], scheme.groups(weight.shape[1]), -1)


def safe_scales(scales: Tensor) -> Tensor:
    """Scales in float16 that are safe to divide by: a scale that is 0, or that float16 rounds to 0, becomes 1."""
    rounded = scales.clamp(-65504.0, 65504.0).to(torch.float16)
    return torch.where(rounded == 0, torch.ones_like(rounded), rounded)
