"""Exercise 5.8: GPTQ for one column. When a column is rounded, the columns after it are changed to compensate for its error."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws, away_from_ties


def upper_factor(hessian: Tensor, damping: float = 0.01) -> Tensor:
    """The upper Cholesky factor U of the inverse of a Hessian H `[in, in]`: H^-1 = U^T U. First, H's diagonal is enlarged."""
    size = len(hessian)
    damped = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(
        size, dtype=torch.float64, device="cpu"
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).to(hessian.dtype)  # type: ignore[no-any-return]


def _case(draws: Draws, label: str, weight: Tensor, inputs: Tensor, column: int, bits: int) -> Case:
    factor = upper_factor(inputs.t() @ inputs / len(inputs))
    scales = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    scales = scales.masked_fill(scales == 0, 1.0) * 0.8  # the largest numbers are clipped
    weight = weight.clone()
    weight[:, column : column + 1] = away_from_ties(weight[:, column : column + 1], scales)
    words = f"{label}, {list(weight.shape)}, column {column}, {bits} bits"
    return Case(words, (weight, factor, column, scales[:, 0].contiguous(), bits))


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    real, inputs = draws.real_weight(12, 40), draws.real_inputs(90)[:, :40]
    size = draws.pick.randrange(6, 15)
    zeros = draws.normal(3, 8)
    zeros[:, 2] = 0
    return [
        _case(draws, "a weight of gptj-tiny", real, inputs, draws.pick.randrange(2, 38), 4),
        _case(draws, "random", draws.normal(5, size), draws.normal(50, size), 0, 3),
        _case(draws, "one outlier", draws.one_outlier(4, 9), draws.heavy_tailed(40, 9), draws.pick.randrange(1, 8), 3),
        _case(draws, "the last column", draws.negative(3, 7), draws.normal(30, 7), 6, 4),
        _case(draws, "a column of zeros", zeros, draws.normal(30, 8), 2, 4),
    ]


GPTQ_COLUMN = Exercise(
    name="lab05.gptq_column",
    lab="05",
    number="5.8",
    title="GPTQ: let the other columns repair the error",
    function="gptq_column",
    statement=(
        "Return a copy of `weight` `[out, in]` after one step. Round column $j$ = `column`: $q = s \\cdot "
        "\\text{clamp}(\\text{round}(w_j / s))$ with `scales` $s$ `[out]` and integers from $-2^{bits-1}$ to $2^{bits-1}-1$; "
        "$q$ replaces the column. Earlier columns do not change. Each later column $k > j$ changes, with $U$ = `factor` "
        "`[in, in]`:\n\n$$w_k \\leftarrow w_k - \\frac{w_j - q}{U_{jj}}\\, U_{jk}$$"
    ),
    points=10,
    minutes=12,
    difficulty=4,
    cases=_cases,
    hints=(
        "The error is one number for each row; U gives one number for each later column. Which product of the two is a matrix?",
        "error = (w_j - q) / U[j, j] is [out]. Subtract error[:, None] * U[j, j + 1:] from the columns after j.",
        "new[:, j + 1:] -= torch.outer((weight[:, j] - q) / factor[j, j], factor[j, j + 1:])",
    ),
)
EXERCISES = (GPTQ_COLUMN,)
