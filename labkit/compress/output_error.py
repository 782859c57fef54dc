"""Lowers the error of a layer's output after its weights were rounded: fits the scales, and improves integers one by one.

For a row w that was rounded to q, the error of the output is (w - q)^T H (w - q), where H is the mean of x x^T over the layer's
inputs x. Both functions here lower this error for every row.

- `fit_scales` keeps the integers. Then q is linear in the scales of the row, so the best scales are the solution of a least
  squares problem with one unknown per group. llama.cpp (`make_qx_quants`) and NNCF (scale estimation) also fit scales to
  integers, but each group alone; here the groups of a row are fitted together, with the correlations of their inputs.
- `descend` keeps the scales and changes one column after the other to the best integers, while all other columns stay as they
  are (coordinate descent; K. Behdin et al.: QuantEase, 2023, https://arxiv.org/abs/2309.01885). GPTQ decides about each column
  once, when the columns after it are not rounded yet; coordinate descent decides again, with all other columns rounded.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerWeight
from labkit.compress.scales import safe_scales, to_integers

RIDGE = 1e-4
"""`fit_scales` adds this share to the diagonal of its equations, so that they have a solution if two groups are dependent."""
BLOCK_COLUMNS = 128
"""How many columns form a block. The columns outside a block are changed once per block, in one matrix product."""
MOST_NUMBERS = 1 << 23
"""`fit_scales` takes only so many rows at a time that neither they nor their equations have more numbers than this."""


def output_error(difference: Tensor, hessian: Tensor) -> float:
    """The mean squared error of a layer's output, summed over its features: trace(D H D^T) for a weight error D `[out, in]`."""
    return float(row_errors(difference, hessian).sum())


def row_errors(difference: Tensor, hessian: Tensor) -> Tensor:
    """The mean squared error `[out]` of each feature of a layer's output: d^T H d for each row d of a weight error."""
    return ((difference @ hessian) * difference).sum(1)


def least_error(weight: Tensor, hessian: Tensor, one: IntegerWeight, other: IntegerWeight) -> IntegerWeight:
    """For each row of a dense `[out, in]` matrix, take the one of two roundings whose output error is smaller."""
    first, second = (row_errors(weight - each.dequantize(), hessian) for each in (one, other))
    better = (second < first)[:, None]
    zeros = None
    if one.zero_points is not None and other.zero_points is not None:
        zeros = torch.where(better, other.zero_points, one.zero_points)
    values, scales = torch.where(better, other.values, one.values), torch.where(better, other.scales, one.scales)
    return replace(one, values=values, scales=scales, zero_points=zeros)


def fit_scales(weight: Tensor, rounded: IntegerWeight, hessian: Tensor) -> IntegerWeight:
    """Give each row of `rounded` the scales with the smallest output error; integers and zero points do not change.

    `weight` `[out, in]` is the dense matrix in float32, and `hessian` `[in, in]` the mean of x x^T. The scales are float16; a
    row keeps its old scales if rounding the new ones to float16 makes them worse.
    """
    step = max(1, MOST_NUMBERS // max(rounded.scales.shape[1] ** 2, weight.shape[1]))
    parts = [slice(begin, begin + step) for begin in range(0, len(weight), step)]
    return replace(rounded, scales=torch.cat([_fitted(weight[rows], _rows(rounded, rows), hessian) for rows in parts]))


def _fitted(weight: Tensor, rounded: IntegerWeight, hessian: Tensor) -> Tensor:
    """Return the better scales of each row.

    With scales that differ by c, the error is smaller by 2 right c - c left c, where left_gh = n_g^T H n_h and right_g =
    n_g^T H (w - q) for the groups g and h. So the best c solves left c = right. n_g has the integers of group g, minus the zero
    point, in the places of this group, and 0 elsewhere.
    """
    rows, groups = rounded.scales.shape
    numbers = replace(rounded, scales=torch.ones_like(rounded.scales)).dequantize()
    split, size = (rows, groups, -1), weight.shape[1] // groups
    right = ((weight - rounded.dequantize()) @ hessian * numbers).view(split).sum(2).double()
    left = weight.new_empty(rows, groups, groups, dtype=torch.float64)
    for group in range(groups):
        own = slice(group * size, (group + 1) * size)
        left[:, group] = (numbers[:, own] @ hessian[own] * numbers).view(split).sum(2)
    diagonal = left.diagonal(dim1=1, dim2=2)
    ridge = RIDGE * diagonal + (diagonal == 0)  # a group of zeros has any scale
    scales = safe_scales((rounded.scales + torch.linalg.solve(left + ridge.diag_embed(), right)).float())
    change = scales.double() - rounded.scales
    gain = ((2 * right - (left @ change[..., None]).squeeze(-1)) * change).sum(1, keepdim=True)
    return torch.where(gain > 0, scales, rounded.scales)


def _rows(rounded: IntegerWeight, rows: slice) -> IntegerWeight:
    zeros = None if rounded.zero_points is None else rounded.zero_points[rows]
    return replace(rounded, values=rounded.values[rows], scales=rounded.scales[rows], zero_points=zeros)


def descend(weight: Tensor, rounded: IntegerWeight, hessian: Tensor) -> IntegerWeight:
    """Change every column of `rounded` once to the integers with the smallest output error; the scales do not change.

    `weight` `[out, in]` is the dense matrix in float32, and `hessian` `[in, in]` the mean of x x^T. The columns with the
    largest inputs come first. A row that rounding errors of float32 would make worse stays as it is.
    """
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    ordered, scheme, groups = hessian[order][:, order], rounded.scheme, order // rounded.scheme.group_of(weight.shape[1])
    scales = rounded.scales.float().t()
    zeros = None if rounded.zero_points is None else rounded.zero_points.float().t()
    now = rounded.dequantize().t()[order].contiguous()  # [in, out]
    values = rounded.values.t()[order].contiguous()
    pull = ordered @ (weight.t()[order] - now)
    for begin in range(0, len(order), BLOCK_COLUMNS):
        block = slice(begin, begin + BLOCK_COLUMNS)
        near, before = ordered[block, block], now[block].clone()
        for column, diagonal in enumerate(near.diagonal().tolist()):
            at = begin + column
            if diagonal <= 0:
                continue
            group = int(groups[at])
            zero = None if zeros is None else zeros[group]
            values[at] = to_integers(now[at] + pull[at] / diagonal, scales[group], zero, scheme)
            best = (values[at].float() - (0.0 if zero is None else zero)) * scales[group]
            pull[block].addr_(near[column], now[at] - best)
            now[at] = best
        change = before - now[block]
        pull[:begin] += ordered[:begin, block] @ change
        pull[begin + len(change) :] += ordered[begin + len(change) :, block] @ change
    found = replace(rounded, values=values[torch.argsort(order)].t().contiguous())
    return least_error(weight, hessian, rounded, found)
