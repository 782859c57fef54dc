"""2:4 sparse int8 weights: which integers are stored, parts and stacks, and what runs where the CPU kernels are missing."""

from __future__ import annotations

import pytest
import torch

from labkit.errors import InvalidRequest
from labkit.model.weight_store import weight_store
from labkit.ops.linear import linear_reference
from labkit.ops.torch_packed import TorchPackedWeight
from labkit.weight_formats import Int8Weight, Sparse24Int8Weight
from labkit.weight_formats.sparse24_int8 import stack_rows
from tests.ops.test_sparse24 import pruned, random


@pytest.mark.parametrize("shape", [(1, 4), (5, 44), (17, 130)])
def test_the_largest_weights_are_rounded_like_int8(shape: tuple[int, int]) -> None:
    weight = random(*shape)
    found, kept = Sparse24Int8Weight.quantize(weight), pruned(weight)
    assert found.shape == shape
    assert torch.equal(found.with_zeros.values != 0, (Int8Weight.quantize(weight).values != 0) & (kept != 0))
    step = kept.abs().amax(1, keepdim=True) / 127  # the largest weight of a row is never pruned
    assert bool(((found.dequantize() - kept).abs() <= 0.5001 * step).all())
    padded = -(-shape[1] // 8) * 8
    assert found.byte_count == shape[0] * (padded * 5 // 8 + 4)
    x = random(3, shape[1], seed=2)
    assert torch.allclose(linear_reference(x, found), x @ found.dequantize().T, atol=1e-4)


def test_parts_and_stacks() -> None:
    first, second = (Sparse24Int8Weight.quantize(random(5, 44, seed=seed)) for seed in (1, 2))
    assert torch.equal(first.part(slice(8, 44)).dequantize(), first.dequantize()[:, 8:])
    with pytest.raises(InvalidRequest, match="columns 4 to 44 of a 2:4 sparse matrix cannot be taken"):
        first.part(slice(4, 44))
    both = stack_rows([first, second])
    assert torch.equal(both.dequantize(), torch.cat([first.dequantize(), second.dequantize()]))


def test_without_the_native_library_the_zeros_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random(48, 64), random(3, 64, seed=1)
    expected = x @ Sparse24Int8Weight.quantize(weight).dequantize().T
    monkeypatch.setattr("labkit.native.available", lambda: False)
    monkeypatch.setattr("labkit.native.warn_once", lambda: None)
    found = weight_store("sparse24_int8", torch.device("cpu"))("fc_in", weight)
    assert isinstance(found, TorchPackedWeight)
    assert float((found.multiply(x) - expected).norm() / expected.norm()) < 0.01
