"""SparseGPT: after weights are pruned, the weights that are not yet processed are changed to compensate for the error.

E. Frantar, D. Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot (2023),
https://arxiv.org/abs/2301.00774.

SparseGPT works like GPTQ, except that some weights become 0 instead of being rounded; the formulas are in
`labkit.compress.gptq`. Columns are processed from left to right. Before the first of every four columns is processed, the mask
of these four columns is chosen: in each row, the two weights with the smallest errors w^2 / [U_jj]^2 are pruned. Here U is the
upper Cholesky factor of H^-1 (equation 4 of the paper, with the inverse Hessian of the remaining columns). If a grid is given,
the kept weights are rounded in the same pass (section 3.5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.compress.gptq import DAMPING, damped_hessian, inverse_factor
from labkit.compress.output_error import BLOCK_COLUMNS
from labkit.compress.scales import Grid, to_integers
from labkit.compress.two_four import GROUP, check_two_four, two_four_mask


def sparsegpt(
    weight: Tensor,
    hessian: Tensor,
    damping: float = DAMPING,
    *,
    mask: Tensor | None = None,
    grid: Grid | None = None,
    block_columns: int = BLOCK_COLUMNS,
) -> tuple[Tensor, Tensor]:
    """Prune a dense `[out, in]` matrix to 2:4, so that the layer's output changes little.

    Returns the new weights in float64, which are 0 where they are pruned, and the mask, which is True where a weight is kept.

    `hessian` `[in, in]` is the mean of x x^T over calibration inputs. If a `mask` is given, only the weights are computed. If a
    symmetric `grid` is given, the kept weights are rounded to this grid. `block_columns`, a multiple of four, only changes how
    the work is divided. Raises `LabkitError` if H cannot be inverted, and `InvalidRequest` unless `in` is a multiple of four.
    """
    check_two_four(weight.shape[1], "a matrix")
    work, inputs = weight.double().clone(), weight.shape[1]
    factor = inverse_factor(damped_hessian(hessian, damping))
    kept = torch.zeros_like(work, dtype=torch.bool) if mask is None else mask.clone()
    for begin in range(0, inputs, block_columns):
        end = min(begin + block_columns, inputs)
        errors = work.new_empty(work.shape[0], end - begin)
        for column in range(begin, end):
            if mask is None and column % GROUP == 0:
                four = slice(column, column + GROUP)
                kept[:, four] = two_four_mask((work[:, four] / factor.diagonal()[four]).abs())
            value = torch.where(kept[:, column], _rounded(work[:, column], grid, column, inputs), 0.0)
            error = (work[:, column] - value) / factor[column, column]
            work[:, column] = value
            work[:, column + 1 : end] -= error[:, None] * factor[column, column + 1 : end]
            errors[:, column - begin] = error
        work[:, end:] -= errors @ factor[begin:end, end:]
    return work, kept


def _rounded(values: Tensor, grid: Grid | None, column: int, inputs: int) -> Tensor:
    """Round values to the grid of a column; if `grid` is None, return the values themselves."""
    if grid is None:
        return values
    scales, _ = grid.column(column, inputs)
    return to_integers(values, scales, None, grid.scheme).double() * scales.double()
