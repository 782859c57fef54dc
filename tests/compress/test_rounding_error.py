"""The rounding error of a Gaussian matrix is compared with the published errors of llama.cpp's formats at equal bits."""

from __future__ import annotations

import pytest
import torch

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress.round_to_nearest import round_to_nearest
from labkit.compress.scales import searched

WEIGHT = torch.randn(128, 1024, generator=torch.Generator().manual_seed(0))


def percent(scheme: IntegerScheme, *, search: bool = True) -> float:
    """The root mean square error, as a percentage of the root mean square of the matrix."""
    found = searched(WEIGHT, scheme).round(WEIGHT) if search else round_to_nearest(WEIGHT, scheme)
    return 100 * float((found.dequantize() - WEIGHT).norm() / WEIGHT.norm())


def test_int8_in_groups_of_32_is_as_exact_as_q8_0_at_the_same_bits() -> None:
    scheme = IntegerScheme(8, 32)
    assert scheme.bits_per_weight(1024) == 8.5
    assert percent(scheme, search=False) < 0.54
    assert percent(scheme) < 0.52


@pytest.mark.parametrize(
    ("scheme", "most"), [(IntegerScheme(8, 64), 0.57), (IntegerScheme(4, 32), 8.2), (IntegerScheme(4, 32, False), 7.9)], ids=str
)
def test_the_search_finds_better_scales_than_the_range(scheme: IntegerScheme, most: float) -> None:
    assert percent(scheme) < min(most, 0.97 * percent(scheme, search=False))
