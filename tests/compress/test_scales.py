"""Scales: the results of round-to-nearest and of the search are compared with formulas that are written out here."""

from __future__ import annotations

import pytest
import torch

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress.round_to_nearest import round_to_nearest
from labkit.compress.scales import searched
from labkit.errors import InvalidRequest

SCHEMES = [IntegerScheme(bits, size, symmetric) for bits in (2, 3, 4, 8) for size in (None, 32) for symmetric in (True, False)]
WEIGHT = torch.randn(24, 96, generator=torch.Generator().manual_seed(0)) * 0.1


def slow(weight: torch.Tensor, scheme: IntegerScheme) -> torch.Tensor:
    """Round to nearest in float64, group by group."""
    out = torch.empty_like(weight, dtype=torch.float64)
    size = scheme.group_size or weight.shape[1]
    for row in range(weight.shape[0]):
        for begin in range(0, weight.shape[1], size):
            group = weight[row, begin : begin + size].double()
            if scheme.symmetric:
                steps = 127 if scheme.bits == 8 else (2**scheme.bits - 1) / 2
                scale, zero = (group.abs().max() / steps).half().double(), 0.0
            else:
                low, high = min(float(group.min()), 0.0), max(float(group.max()), 0.0)
                scale = torch.tensor((high - low) / (2**scheme.bits - 1)).half().double()
                zero = float(scheme.lowest - torch.round(low / scale))
            integers = (torch.round(group / scale) + zero).clamp(-(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1)
            out[row, begin : begin + size] = scale * (integers - zero)
    return out


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_round_to_nearest_is_the_formula(scheme: IntegerScheme) -> None:
    found = round_to_nearest(WEIGHT, scheme)
    difference = (found.dequantize(torch.float64) - slow(WEIGHT, scheme)).abs()
    assert float((difference > 1e-6).double().mean()) < 0.003  # float32 may round a tie the other way
    assert int(found.values.min()) >= scheme.lowest
    assert int(found.values.max()) <= scheme.highest


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_search_is_never_worse_for_what_it_minimizes(scheme: IntegerScheme) -> None:
    importance = torch.rand(96, generator=torch.Generator().manual_seed(1)) + 0.01
    errors = [
        float(((found.dequantize() - WEIGHT).square() * importance).sum())
        for found in (searched(WEIGHT, scheme, importance).round(WEIGHT), round_to_nearest(WEIGHT, scheme))
    ]
    assert errors[0] <= errors[1] * 1.0001
    if scheme.bits < 8:
        assert errors[0] < 0.97 * errors[1]


def test_a_group_of_zeros_stays_zero() -> None:
    weight = WEIGHT.clone()
    weight[:, :32] = 0
    for scheme in SCHEMES:
        assert not round_to_nearest(weight, scheme).dequantize()[:, :32].any()


def test_groups_that_do_not_divide() -> None:
    with pytest.raises(InvalidRequest, match="group size 64 does not divide the 96 inputs of a matrix; 16, 32 divides"):
        round_to_nearest(WEIGHT, IntegerScheme(4, 64))


@pytest.mark.parametrize("size", [32, 96])
def test_int8_and_int4_agree_with_torchao(size: int) -> None:
    primitives = pytest.importorskip(
        "torchao.quantization.quant_primitives", reason="not measured here: torchao is not installed"
    )
    for bits, symmetric in ((4, True), (4, False), (8, False)):
        scheme = IntegerScheme(bits, size, symmetric)
        kind = primitives.MappingType.SYMMETRIC if symmetric else primitives.MappingType.ASYMMETRIC
        limits = {"quant_min": scheme.lowest, "quant_max": scheme.highest}
        scales, zeros = primitives.choose_qparams_affine(WEIGHT, kind, (1, size), torch.int8, **limits)
        found = round_to_nearest(WEIGHT, scheme)
        assert torch.allclose(found.scales.float(), scales.view_as(found.scales).float(), rtol=1e-3)
        integers = primitives.quantize_affine(WEIGHT, (1, size), scales, zeros, torch.int8, **limits)
        theirs = primitives.dequantize_affine(integers, (1, size), scales, zeros, torch.int8, **limits)
        ours, steps = found.dequantize(), scales.view(found.scales.shape).repeat_interleave(size, 1)
        # Our scales are rounded to float16, so a value or a zero point near a tie may be rounded the other way.
        assert float(((ours - theirs) / steps).abs().max()) < 1.2
        assert float((ours - WEIGHT).square().mean()) == pytest.approx(float((theirs - WEIGHT).square().mean()), rel=0.03)
