"""Binary weights: the stored pair of opposite numbers is the best one for a group, and the engine runs the directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import labkit
from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress import compress, method_named
from labkit.compress.binary import to_signs
from labkit.errors import InvalidRequest
from tests.compress.directories import dense_directory

WEIGHT = torch.randn(6, 96, generator=torch.Generator().manual_seed(2)) * 0.3


def test_no_other_pair_of_opposite_numbers_is_closer() -> None:
    found = to_signs(WEIGHT, IntegerScheme(2, 32))
    assert set(found.values.flatten().tolist()) == {-1, 1}
    for row in range(6):
        for begin in range(0, 96, 32):
            group = WEIGHT[row, begin : begin + 32]
            scale = float(found.scales[row, begin // 32])
            errors = [float((group.abs() - other * scale).square().sum()) for other in (0.97, 1.0, 1.03)]
            assert min(errors) == errors[1]
            assert torch.equal(found.dequantize()[row, begin : begin + 32], torch.where(group < 0, -scale, scale))


def test_a_directory_of_signs_runs(tmp_path: Path) -> None:
    dense = dense_directory(tmp_path / "dense")
    result = compress(dense, tmp_path / "signs", method_named("int1-rtn", group_size=32))
    assert result.bits_per_weight == 2.5  # a weight is stored in two bits, and 32 weights share a 16-bit scale
    before = labkit.load(dense, device="cpu", dtype="fp32").logits([3, 5, 7])
    found = labkit.load(tmp_path / "signs", device="cpu", dtype="fp32").logits([3, 5, 7])
    assert torch.isfinite(found).all()
    assert 0.1 < float((found - before).norm() / before.norm()) < 1.5


def test_refusals() -> None:
    with pytest.raises(InvalidRequest, match="leave --asymmetric out"):
        method_named("int1", asymmetric=True)
    with pytest.raises(InvalidRequest, match="group size 64 does not divide the 96 inputs"):
        to_signs(WEIGHT, IntegerScheme(2, 64))
