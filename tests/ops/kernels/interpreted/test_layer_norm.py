"""The layer norm kernel is compared with its formula in float64."""

from __future__ import annotations

import pytest
import torch

from labkit import ops
from labkit.errors import NotAvailable
from labkit.ops.kernels.interpreter_traffic import count_traffic
from labkit.ops.kernels.layer_norm import layer_norm_triton
from tests.ops.kernels.guard import misaligned
from tests.ops.test_ops import random, relative

BOUNDS = {torch.float32: 2e-6, torch.float16: 1e-3}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("place", [torch.clone, misaligned])
@pytest.mark.parametrize(("tokens", "hidden"), [(1, 1), (3, 7), (5, 130), (2, 4096), (1, 12288)])
def test_layer_norm(tokens: int, hidden: int, place, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias = (
        place(part.to(dtype)) for part in (random(tokens, hidden) * 3 + 20, random(hidden), random(hidden, seed=1))
    )
    expected = ops.layer_norm(x.double(), weight.double(), bias.double(), 1e-5)
    found = layer_norm_triton(x, weight, bias, 1e-5)
    assert found.dtype == dtype
    assert relative(found, expected) < BOUNDS[dtype]


def test_it_reads_and_writes_each_row_once() -> None:
    x, weight = torch.randn(5, 70), torch.randn(70)
    with count_traffic() as traffic:
        layer_norm_triton(x, weight, weight, 1e-5)
    assert (traffic.bytes_read, traffic.bytes_written) == (4 * 5 * (70 + 2 * 70), 4 * 5 * 70)


def test_no_rows_and_rows_that_are_not_contiguous() -> None:
    weight = torch.randn(6)
    assert layer_norm_triton(torch.randn(0, 6), weight, weight, 1e-5).shape == (0, 6)
    wide = random(5, 12)
    expected = ops.layer_norm(wide[:, ::2], weight.double(), weight.double(), 1e-5)
    assert relative(layer_norm_triton(wide[:, ::2].float(), weight, weight, 1e-5), expected) < 2e-6


def test_bfloat16_is_refused_in_the_interpreter() -> None:
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    with pytest.raises(NotAvailable, match="bfloat16 in Triton's interpreter"):
        layer_norm_triton(x, x[0], x[0], 1e-5)
