"""int4's scales never give a larger error than plain absmax, give a smaller one for normal weights, and are always finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labkit.ops import Int4Weight
from labkit.weight_formats import INT4_LARGEST


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def with_outliers(weight: Tensor, factor: float) -> Tensor:
    """The matrix with every 37th weight multiplied by `factor`."""
    weight.view(-1)[::37] *= factor
    return weight


def absmax(weight: Tensor, group: int) -> Tensor:
    """A matrix rounded with plain absmax, in float64. A group's largest magnitude becomes -8 steps; the scales are float16."""
    rows, columns = weight.shape
    groups = torch.nn.functional.pad(weight.double(), (0, -columns % group)).view(rows, -1, group)
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scales = (largest.float() / -8).half().double()
    scales[scales == 0] = 1
    return ((groups / scales).round().clamp(-8, 7) * scales).flatten(1)[:, :columns]


def errors(rounded: Tensor, weight: Tensor, group: int) -> Tensor:
    """The squared error of every group, in float64."""
    off = torch.nn.functional.pad((rounded.double() - weight.double()) ** 2, (0, -weight.shape[1] % group))
    return off.view(len(weight), -1, group).sum(2)


@pytest.mark.parametrize("group", [2, 6, 32, 128])
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (5, 70), (33, 257), (64, 512), (1, 4096)])
@pytest.mark.parametrize("factor", [1.0, 3.0, 50.0])
def test_no_group_is_worse_than_with_absmax(shape: tuple[int, int], group: int, factor: float) -> None:
    weight = with_outliers(random(*shape), factor) / 50
    ours = errors(Int4Weight.quantize(weight, group).dequantize(torch.float64), weight, group)
    plain = errors(absmax(weight, group), weight, group)
    assert bool((ours <= plain * (1 + 1e-5) + 1e-14).all())


def test_the_squared_error_of_normal_weights_falls_by_a_tenth() -> None:
    weight = random(256, 1024)
    ours = errors(Int4Weight.quantize(weight).dequantize(torch.float64), weight, 32).sum()
    assert float(ours / errors(absmax(weight, 32), weight, 32).sum()) == pytest.approx(0.9, abs=0.01)


def test_a_matrix_of_many_chunks_is_its_rows_one_by_one() -> None:
    weight = random(9, 70_000)
    whole, rows = Int4Weight.quantize(weight), [Int4Weight.quantize(row[None]) for row in weight]
    assert torch.equal(whole.packed, torch.cat([row.packed for row in rows]))
    assert torch.equal(whole.scales, torch.cat([row.scales for row in rows]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_how_a_matrix_lies_in_memory_changes_nothing(dtype: torch.dtype) -> None:
    weight = random(64, 48).to(dtype)
    turned = Int4Weight.quantize(weight.t())
    assert torch.equal(turned.dequantize(), Int4Weight.quantize(weight.t().contiguous()).dequantize())


def test_what_int4_holds_exactly_stays() -> None:
    nibbles = torch.arange(-8, 8).repeat(4, 4).float()
    for scale in (1.0, -0.25, 2.0**-20):
        assert torch.equal(Int4Weight.quantize(nibbles * scale).dequantize(), nibbles * scale)


def test_zeros_and_extremes_stay_finite() -> None:
    weight = torch.zeros(4, 64)
    weight[1, 3], weight[2, 5], weight[3, 40] = 1e-30, 1e4, -1e4
    made = Int4Weight.quantize(weight)
    assert float(made.dequantize()[0].abs().max()) == 0
    assert bool(torch.isfinite(made.dequantize()).all())
    assert float((made.dequantize()[2:] - weight[2:]).abs().max()) < 1e4 * 1e-3


def test_the_first_of_equals_is_minus_eight() -> None:
    assert INT4_LARGEST[0] == 8
    weight = torch.zeros(1, 32)
    weight[0, 7] = 3.0
    assert float(Int4Weight.quantize(weight).scales) == pytest.approx(-3 / 8, rel=1e-3)
