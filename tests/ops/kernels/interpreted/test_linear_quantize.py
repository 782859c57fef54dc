"""Rounding of activations, FP8 matrix products, and dequantized weights: every bit of a result equals the result of the torch
form.
"""

from __future__ import annotations

import pytest
import torch

from labkit import ops
from labkit.ops.kernels.linear import run_plan
from labkit.ops.kernels.linear_dequantize import dequantize_triton
from labkit.ops.kernels.linear_plan import CUBLAS
from labkit.ops.kernels.linear_plans import plans, rows_bucket
from labkit.ops.kernels.linear_quantize import quantize_rows_triton
from labkit.weight_formats import quantize_rows_fp8, quantize_rows_int8
from tests.ops.kernels.guard import misaligned
from tests.ops.test_ops import random, relative
from tests.sampled import one_in

ROUNDINGS = {torch.int8: quantize_rows_int8, torch.float8_e4m3fn: quantize_rows_fp8}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("place", [torch.clone, misaligned])
@pytest.mark.parametrize("to", ROUNDINGS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 33), (7, 257), (2, 4100)])
def test_rows_are_rounded_as_specified(shape: tuple[int, int], to: torch.dtype, place, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    x = place((random(*shape) * torch.logspace(-3, 1, shape[1])).to(dtype))
    values, scales = quantize_rows_triton(x, to)
    expected_values, expected_scales = ROUNDINGS[to](x)
    assert torch.equal(scales, expected_scales)
    assert values.dtype == to
    assert torch.equal(values.float(), expected_values.float())
    assert float(values.float().abs().amax(1).min()) == (127 if to == torch.int8 else 448)


@pytest.mark.parametrize("to", ROUNDINGS)
def test_rows_with_a_given_scale(to: torch.dtype) -> None:
    x = random(5, 130).float() * 3
    values, scales = quantize_rows_triton(x, to, 0.01)
    expected_values, expected_scales = ROUNDINGS[to](x, 0.01)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(values.float(), expected_values.float())
    assert float(values.float().abs().max()) == (127 if to == torch.int8 else 448)


@pytest.mark.parametrize("scale", [None, 0.01])
@pytest.mark.parametrize("to", ROUNDINGS)
def test_a_row_with_nan_has_the_scale_nan(to: torch.dtype, scale: float | None) -> None:
    x = random(4, 130).float()
    x[1, 7] = torch.nan
    x[2] = torch.inf
    values, scales = quantize_rows_triton(x, to, scale)
    expected_values, expected_scales = ROUNDINGS[to](x, scale)
    assert torch.equal(scales.isfinite(), torch.tensor([True, False, False, True]))
    assert torch.equal(scales.nan_to_num(), expected_scales.nan_to_num())
    assert torch.equal(values.float()[[0, 3]], expected_values.float()[[0, 3]])


def test_every_number_of_e4m3_and_every_tie_between_two() -> None:
    every = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()  # 0 to 448, including subnormal numbers
    ties = (every[1:] + every[:-1]) / 2
    x = torch.cat((every, ties, -every, -ties))[None]
    values, scales = quantize_rows_triton(x, torch.float8_e4m3fn)
    assert float(scales) == 1
    assert torch.equal(values.float(), x.to(torch.float8_e4m3fn).float())


def test_a_row_of_zeros_has_the_scale_0() -> None:
    x = torch.zeros(2, 5)
    x[1, 2] = -3
    for to, largest in ((torch.int8, -127), (torch.float8_e4m3fn, -448)):
        values, scales = quantize_rows_triton(x, to)
        assert scales[0] == 0
        assert values.float().tolist() == [[0] * 5, [0, 0, largest, 0, 0]]


@pytest.mark.parametrize("dtype", one_in(2, [torch.float16, torch.float32]))
@pytest.mark.parametrize("shape", [(1, 16, 16), (5, 257, 130), (33, 80, 48), (70, 160, 32)])
def test_fp8_products(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, num_in, num_out = shape
    x, bias = random(rows, num_in).to(dtype), random(num_out).to(dtype)
    weight = ops.Fp8Weight.quantize(random(num_out, num_in) * num_in**-0.5)
    expected = ops.linear_gelu(x.double(), weight, bias.double())
    bound = 1e-5 if dtype == torch.float32 else 1e-3
    ways = plans("fp8", min(rows_bucket(rows), 64), num_in, num_out, dtype, 0, 90)
    for label, plan in ways.items():
        assert relative(run_plan(plan, x, weight, bias, gelu=True), expected) < bound, label
    assert CUBLAS.label in ways


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (5, 257), (3, 2050)])
def test_weights_are_spread_out_as_specified(shape: tuple[int, int], dtype: torch.dtype) -> None:
    dense = random(*shape)
    int4 = [ops.Int4Weight.quantize(dense, group) for group in (32, 6, 128)]
    weights: list[ops.Int8Weight | ops.Int4Weight] = [ops.Int8Weight.quantize(dense), *int4]
    for weight in weights:
        assert torch.equal(dequantize_triton(weight, dtype), weight.dequantize(dtype))
