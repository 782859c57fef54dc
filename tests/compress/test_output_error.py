"""Fitted scales are compared with the least squares solution of each row, and coordinate descent with a full search."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress import output_error as module
from labkit.compress.awq import round_with_fitted_scales
from labkit.compress.gptq import gptq, refined_gptq
from labkit.compress.output_error import descend, fit_scales, least_error, row_errors
from labkit.compress.scales import searched

CHOOSER = torch.Generator().manual_seed(23)
WEIGHT = torch.randn(13, 320, generator=CHOOSER)
INPUTS = torch.randn(900, 320, generator=CHOOSER) @ (torch.randn(320, 320, generator=CHOOSER) / 12 + torch.eye(320)) + 0.5
INPUTS *= torch.linspace(0.2, 2, 320)
HESSIAN = INPUTS.T @ INPUTS / len(INPUTS)
SCHEMES = pytest.mark.parametrize(
    "scheme", [IntegerScheme(4, 32), IntegerScheme(3, None), IntegerScheme(2, 16, False), IntegerScheme(4, 64, False)], ids=str
)


def rounded(scheme: IntegerScheme) -> IntegerWeight:
    return searched(WEIGHT, scheme).round(WEIGHT)


def errors(found: IntegerWeight) -> Tensor:
    return row_errors(found.dequantize() - WEIGHT, HESSIAN)


@SCHEMES
def test_the_scales_are_the_least_squares_of_the_whole_row(scheme: IntegerScheme) -> None:
    start, root = rounded(scheme), torch.linalg.cholesky(HESSIAN.double(), upper=True)
    found = fit_scales(WEIGHT, start, HESSIAN)
    assert torch.equal(found.values, start.values)
    numbers = replace(start, scales=torch.ones_like(start.scales)).dequantize(torch.float64)
    for row in range(len(WEIGHT)):
        places = torch.zeros(320, start.scales.shape[1], dtype=torch.float64)
        places[torch.arange(320), torch.arange(320) // scheme.group_of(320)] = numbers[row]
        best = torch.linalg.lstsq(root @ places, root @ WEIGHT[row].double()[:, None]).solution[:, 0]
        assert torch.allclose(found.scales[row].double(), best, rtol=2e-3)
    assert bool((errors(found) < errors(start)).all())


@SCHEMES
def test_rows_are_fitted_alike_in_several_parts(scheme: IntegerScheme, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_scales(WEIGHT, rounded(scheme), HESSIAN)
    monkeypatch.setattr(module, "MOST_NUMBERS", 5 * max(rounded(scheme).scales.shape[1] ** 2, 320))
    assert torch.allclose(fit_scales(WEIGHT, rounded(scheme), HESSIAN).scales.float(), whole.scales.float(), rtol=2e-3)


def test_a_group_of_zeros_keeps_a_scale_that_is_safe_to_divide_by() -> None:
    weight = WEIGHT.clone()
    weight[2, 32:64] = 0
    weight[5] = 0
    found = fit_scales(weight, searched(weight, IntegerScheme(4, 32)).round(weight), HESSIAN)
    assert bool((found.scales != 0).all() and torch.isfinite(found.scales).all())
    assert torch.equal(found.dequantize()[5], torch.zeros(320))


def slow_descent(start: IntegerWeight) -> Tensor:
    """Try all integers for each column, in float64."""
    scheme, hessian, found = start.scheme, HESSIAN.double(), start.values.clone()
    for column in sorted(range(320), key=lambda each: -float(HESSIAN[each, each])):
        tried = []
        for integer in range(scheme.lowest, scheme.highest + 1):
            found[:, column] = integer
            tried.append(row_errors(replace(start, values=found).dequantize(torch.float64) - WEIGHT.double(), hessian))
        found[:, column] = (torch.stack(tried).argmin(0) + scheme.lowest).to(torch.int8)
    return found


@pytest.mark.parametrize("scheme", [IntegerScheme(3, 64), IntegerScheme(2, 16, False)], ids=str)
def test_descent_takes_the_best_integer_of_each_column(scheme: IntegerScheme) -> None:
    start = rounded(scheme)
    found = descend(WEIGHT, start, HESSIAN)
    expected = replace(start, values=slow_descent(start))
    assert float((found.values == expected.values).float().mean()) > 0.999  # a tie can be decided differently in float32
    assert torch.allclose(errors(found), errors(expected), rtol=1e-3)
    assert bool((errors(found) < 0.8 * errors(start)).all())


def test_columns_whose_inputs_are_always_zero_keep_their_integers() -> None:
    hessian = HESSIAN.clone()
    hessian[7] = hessian[:, 7] = 0
    start = rounded(IntegerScheme(4, 32))
    assert torch.equal(descend(WEIGHT, start, hessian).values[:, 7], start.values[:, 7])


def test_each_row_takes_the_smaller_error() -> None:
    scheme = IntegerScheme(3, 32)
    one, other = rounded(scheme), gptq(WEIGHT, HESSIAN, scheme)
    mixed = replace(one, values=one.values.clone(), scales=one.scales.clone())
    mixed.values[::2], mixed.scales[::2] = other.values[::2], other.scales[::2]
    found = least_error(WEIGHT, HESSIAN, mixed, other)
    assert torch.equal(found.values, other.values)
    assert torch.equal(found.scales, other.scales)
    assert torch.equal(least_error(WEIGHT, HESSIAN, other, one).values, other.values)


@SCHEMES
def test_both_lower_the_error_of_the_methods_that_use_them(scheme: IntegerScheme) -> None:
    nearest = searched(WEIGHT, scheme, HESSIAN.diagonal()).round(WEIGHT)
    assert float(errors(round_with_fitted_scales(WEIGHT, HESSIAN, scheme)).sum()) < 0.99 * float(errors(nearest).sum())
    compensated = gptq(WEIGHT, HESSIAN, scheme)
    assert float(errors(refined_gptq(WEIGHT, HESSIAN, scheme)).sum()) < 0.97 * float(errors(compensated).sum())
