"""GPTQ: after each column is rounded, the columns that are not rounded yet are changed to compensate for its error.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh: GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers (2022), https://arxiv.org/abs/2210.17323.

The layer's output error for a row w is (w - q)^T H (w - q), with H = X X^T from the layer's inputs. Columns are rounded one
after another. When column j goes from w_j to q_j, the best change of the columns F that are still free is

    w_F <- w_F - (w_j - q_j) / [H_F'^-1]_jj * [H_F'^-1]_jF        (F' = F and j)

This is equation (2) of the paper. Let U be the upper Cholesky factor of H^-1 (H^-1 = U^T U). Then row j of U divided by U_jj is
row j of H_F'^-1 divided by its diagonal element, for every j. So one factorization is enough for all columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.output_error import BLOCK_COLUMNS, descend, fit_scales
from labkit.compress.scales import Grid, searched, to_integers
from labkit.errors import LabkitError

DAMPING = 0.01
"""This share of the mean of H's diagonal is added to the diagonal, so that H can be inverted."""
REFINEMENTS = 2
"""How many times `refined_gptq` fits the scales and decides about every column again."""


@dataclass(frozen=True)
class GptqOptions:
    """The options of GPTQ.

    `damping` is explained at `DAMPING`. If `activation_order` is True, the columns with the largest inputs are rounded first;
    otherwise the columns are rounded from left to right. In both orders, a group consists of neighbouring columns ("static
    groups"), and its scale is found before any column is rounded. So the result needs no list of groups (`g_idx`), and the same
    kernels can run it in both cases.
    """

    damping: float = DAMPING
    activation_order: bool = True
    block_columns: int = BLOCK_COLUMNS


def gptq(
    weight: Tensor, hessian: Tensor, scheme: IntegerScheme, options: GptqOptions | None = None, grid: Grid | None = None
) -> IntegerWeight:
    """Quantize a dense `[out, in]` matrix so that the layer's output changes little.

    `hessian` `[in, in]` is the mean of x x^T over calibration inputs (`InputStatistics.hessian`). `grid` has the scales; by
    default, the scales with the smallest output error of each group are searched. Raises `LabkitError` if H cannot be
    inverted.
    """
    chosen = options or GptqOptions()
    work = weight.double()
    grid = grid or searched(weight.float(), scheme, hessian.diagonal())
    order = _order(hessian, chosen)
    factor = inverse_factor(damped_hessian(hessian[order][:, order], chosen.damping))
    values = torch.empty(work.shape, dtype=torch.int8, device=work.device)
    _round_columns(work[:, order], factor, grid, order, values, chosen.block_columns)
    return IntegerWeight(scheme, values, grid.scales, grid.zero_points)


def refined_gptq(weight: Tensor, hessian: Tensor, scheme: IntegerScheme, options: GptqOptions | None = None) -> IntegerWeight:
    """Quantize a dense `[out, in]` matrix with `gptq`, then lower the error further with `fit_scales` and `descend`."""
    found, dense = gptq(weight, hessian, scheme, options), weight.float()
    for _ in range(REFINEMENTS):
        found = descend(dense, fit_scales(dense, found, hessian), hessian)
    return fit_scales(dense, found, hessian)


def _round_columns(work: Tensor, factor: Tensor, grid: Grid, order: Tensor, values: Tensor, block_columns: int) -> None:
    """Round the columns of `work` from left to right; column i is stored as column `order[i]` of `values`. Changes `work`."""
    inputs = work.shape[1]
    for begin in range(0, inputs, block_columns):
        end = min(begin + block_columns, inputs)
        errors = work.new_empty(work.shape[0], end - begin)
        for column in range(begin, end):
            place = int(order[column])
            scales, zeros = grid.column(place, inputs)
            integers = to_integers(work[:, column], scales, zeros, grid.scheme)
            values[:, place] = integers
            numbers = integers.double() if zeros is None else integers.double() - zeros.double()
            error = (work[:, column] - numbers * scales.double()) / factor[column, column]
            work[:, column + 1 : end] -= error[:, None] * factor[column, column + 1 : end]
            errors[:, column - begin] = error
        work[:, end:] -= errors @ factor[begin:end, end:]


def damped_hessian(hessian: Tensor, damping: float) -> Tensor:
    """Return H in float64 with a larger diagonal.

    An input that is always 0 gets the mean diagonal, because any weight is right for it.
    """
    damped = hessian.to(torch.float64, copy=True)
    diagonal = damped.diagonal()
    mean = float(diagonal.mean()) or 1.0
    diagonal += damping * mean + torch.where(diagonal == 0, mean, 0.0)
    return damped


def _order(hessian: Tensor, options: GptqOptions) -> Tensor:
    if options.activation_order:
        return torch.argsort(hessian.diagonal(), descending=True, stable=True)
    return torch.arange(len(hessian), dtype=torch.int64, device=hessian.device)


def inverse_factor(damped: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of H, in the memory of H. Raises `LabkitError` if H cannot be inverted.

    At 16,384 inputs, H is 2 GB, so each result overwrites the matrix from which it is computed.
    """
    try:
        torch.linalg.cholesky(damped, out=damped)
        torch.cholesky_inverse(damped, out=damped)
        torch.linalg.cholesky(damped, upper=True, out=damped)
    except RuntimeError as error:  # torch's LinAlgError
        raise LabkitError(
            "the Hessian of a layer cannot be inverted; calibrate with more windows of text, or raise --damping"
        ) from error
    return damped
