"""2:4 masks are compared with ASP's algorithm and a simple loop, and SparseGPT is compared with a slow solution of the same
problem.
"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress.gptq import DAMPING
from labkit.compress.output_error import output_error
from labkit.compress.scales import searched, to_integers
from labkit.compress.sparsegpt import sparsegpt
from labkit.compress.two_four import is_two_four, kept_magnitude, magnitude_scores, two_four_mask, wanda_scores
from labkit.errors import InvalidRequest

CHOOSER = torch.Generator().manual_seed(5)
WEIGHT = torch.randn(12, 64, generator=CHOOSER)
MIXED = torch.randn(64, 64, generator=CHOOSER) + 2 * torch.eye(64)
INPUTS = (torch.randn(500, 64, generator=CHOOSER) @ MIXED) * torch.linspace(0.2, 2, 64)
HESSIAN = INPUTS.T @ INPUTS / len(INPUTS)


def m4n2_1d(weight: Tensor) -> Tensor:
    """ASP's published algorithm: of the six patterns with two ones, take the one that keeps the largest sum of magnitudes."""
    patterns = torch.zeros(6, 4)
    for row, places in enumerate(combinations(range(4), 2)):
        patterns[row, list(places)] = 1
    best = (weight.abs().reshape(-1, 4) @ patterns.T).argmax(1)
    return patterns[best].view(weight.shape).bool()


@pytest.mark.parametrize("shape", [(1, 4), (7, 12), (33, 260), (128, 512)])
@pytest.mark.parametrize("seed", range(3))
def test_magnitude_masks_are_those_of_asp(shape: tuple[int, int], seed: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    mask = two_four_mask(magnitude_scores(weight))
    assert torch.equal(mask, m4n2_1d(weight))
    assert mask.sum() == weight.numel() / 2
    assert is_two_four(weight * mask)
    assert not is_two_four(weight)
    assert kept_magnitude(weight) == pytest.approx(float((weight * mask).abs().sum() / weight.abs().sum()))


def test_of_equal_scores_the_left_one_is_kept() -> None:
    assert two_four_mask(torch.tensor([[1.0, 1, 1, 1, 0, 2, 2, 2]])).int().tolist() == [[1, 1, 0, 0, 0, 1, 1, 0]]
    with pytest.raises(InvalidRequest, match="6 inputs, which cannot be divided into groups of four"):
        two_four_mask(torch.ones(1, 6))


def test_wanda_weighs_magnitudes_by_the_norm_of_the_inputs() -> None:
    found = wanda_scores(WEIGHT, HESSIAN.diagonal())
    norms = [sum(float(x) ** 2 for x in column) ** 0.5 for column in INPUTS.T]
    for row, column in [(0, 0), (3, 17), (11, 63)]:
        assert float(found[row, column]) * 500**0.5 == pytest.approx(abs(float(WEIGHT[row, column])) * norms[column], rel=1e-4)
    assert not torch.equal(two_four_mask(found), two_four_mask(magnitude_scores(WEIGHT)))


def slow(mask: Tensor | None, scheme: IntegerScheme | None) -> tuple[Tensor, Tensor]:
    """Prune column by column. After each column, solve for the free columns in float64, and compute the errors anew."""
    damped = HESSIAN.double() + DAMPING * HESSIAN.double().diagonal().mean() * torch.eye(64, dtype=torch.float64)
    grid = None if scheme is None else searched(WEIGHT, scheme)
    target, work = WEIGHT.double(), WEIGHT.double().clone()
    kept = torch.zeros(12, 64, dtype=torch.bool) if mask is None else mask
    for column in range(64):
        if mask is None and column % 4 == 0:
            # The error of pruning column j when all columns before j are fixed: w^2 / [inverse of H over j and later]_jj.
            errors = [work[:, j] ** 2 / torch.linalg.inv(damped[j:, j:])[0, 0] for j in range(column, column + 4)]
            kept[:, column : column + 4] = two_four_mask(torch.stack(errors, 1))
        value = work[:, column]
        if grid is not None:
            scales, _ = grid.column(column, 64)
            value = to_integers(value, scales, None, grid.scheme).double() * scales.double()
        work[:, column] = torch.where(kept[:, column], value, 0.0)
        free = slice(column + 1, 64)
        if column < 63:
            pull = (target - work)[:, : column + 1] @ damped[: column + 1, free]
            work[:, free] = target[:, free] + torch.linalg.solve(damped[free, free], pull.T).T
    return work, kept


@pytest.mark.parametrize("block", [4, 28, 128])
def test_sparsegpt_is_the_best_change_of_the_free_columns(block: int) -> None:
    found, mask = sparsegpt(WEIGHT, HESSIAN, block_columns=block)
    expected, kept = slow(None, None)
    assert torch.equal(mask, kept)
    assert torch.allclose(found, expected, atol=1e-9)
    assert is_two_four(found)
    assert (found != 0).sum() == WEIGHT.numel() / 2


def test_a_given_mask_and_a_grid() -> None:
    mask, scheme = two_four_mask(magnitude_scores(WEIGHT)), IntegerScheme(4, 32)
    found, kept = sparsegpt(WEIGHT, HESSIAN, mask=mask, grid=searched(WEIGHT, scheme))
    expected, _ = slow(mask.clone(), scheme)
    assert torch.equal(kept, mask)
    assert torch.allclose(found, expected, atol=1e-9)
    assert not bool(found[~mask].any())


def test_each_method_has_less_output_error_than_the_one_before() -> None:
    magnitude = WEIGHT * two_four_mask(magnitude_scores(WEIGHT))
    wanda = WEIGHT * two_four_mask(wanda_scores(WEIGHT, HESSIAN.diagonal()))
    sparse, _ = sparsegpt(WEIGHT, HESSIAN)
    errors = [output_error(each.float() - WEIGHT, HESSIAN) for each in (magnitude, wanda, sparse)]
    assert errors[1] < errors[0]
    assert errors[2] < 0.8 * errors[1]
