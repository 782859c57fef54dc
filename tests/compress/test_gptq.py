"""GPTQ is compared with a slow reference that recomputes the best change of the remaining columns after every column."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress.gptq import DAMPING, GptqOptions, gptq
from labkit.compress.output_error import output_error
from labkit.compress.round_to_nearest import round_to_nearest
from labkit.compress.scales import searched, to_integers
from labkit.errors import LabkitError

CHOOSER = torch.Generator().manual_seed(5)
WEIGHT = torch.randn(12, 64, generator=CHOOSER)
MIXED = torch.randn(64, 64, generator=CHOOSER) + 2 * torch.eye(64)
INPUTS = (torch.randn(500, 64, generator=CHOOSER) @ MIXED) * torch.linspace(0.2, 2, 64)
HESSIAN = INPUTS.T @ INPUTS / len(INPUTS)


def slow(scheme: IntegerScheme, order: list[int]) -> Tensor:
    """After each column, minimize (w - q)^T H (w - q) over the free columns by solving the linear system, in float64."""
    damped = HESSIAN.double() + DAMPING * HESSIAN.double().diagonal().mean() * torch.eye(64, dtype=torch.float64)
    grid, target, work = searched(WEIGHT, scheme, HESSIAN.diagonal()), WEIGHT.double(), WEIGHT.double().clone()
    for place, column in enumerate(order):
        scales, zeros = grid.column(column, 64)
        integers = to_integers(work[:, column], scales, zeros, scheme).double()
        work[:, column] = (integers - (0 if zeros is None else zeros.double())) * scales.double()
        fixed, free = order[: place + 1], order[place + 1 :]
        if free:  # the gradient is 0: H_FF (w_F - target_F) = H_FD (target_D - w_D)
            pull = (target - work)[:, fixed] @ damped[fixed][:, free]
            work[:, free] = target[:, free] + torch.linalg.solve(damped[free][:, free], pull.T).T
    return work


@pytest.mark.parametrize("block", [7, 128])
@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("scheme", [IntegerScheme(4, 32), IntegerScheme(3, None), IntegerScheme(2, 16, False)], ids=str)
def test_it_is_the_best_change_of_the_free_columns(scheme: IntegerScheme, activation_order: bool, block: int) -> None:
    columns = list(range(64))
    if activation_order:
        columns.sort(key=lambda column: -float(HESSIAN[column, column]))
    found = gptq(WEIGHT, HESSIAN, scheme, GptqOptions(activation_order=activation_order, block_columns=block))
    assert torch.allclose(found.dequantize(torch.float64), slow(scheme, columns), atol=1e-9)


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_the_output_changes_less_than_by_round_to_nearest(bits: int) -> None:
    scheme = IntegerScheme(bits, 32)
    errors = [
        output_error(found.dequantize() - WEIGHT, HESSIAN)
        for found in (gptq(WEIGHT, HESSIAN, scheme), searched(WEIGHT, scheme).round(WEIGHT), round_to_nearest(WEIGHT, scheme))
    ]
    assert errors[0] < 0.6 * errors[1]
    assert errors[0] < 0.6 * errors[2]


def test_inputs_that_are_always_zero() -> None:
    hessian = HESSIAN.clone()
    hessian[:, 3] = hessian[3] = 0
    found = gptq(WEIGHT, hessian, IntegerScheme(4, 32)).dequantize()
    assert bool(torch.isfinite(found).all())
    assert float((found - WEIGHT)[:, 3].abs().max()) < 0.5


def test_a_hessian_that_has_no_inverse() -> None:
    with pytest.raises(LabkitError, match="cannot be inverted; calibrate with more windows"):
        gptq(WEIGHT, -HESSIAN, IntegerScheme(4, 32))
