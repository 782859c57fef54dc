"""The wide teacher of the benchmark computes the same function as the narrow model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import labkit
from labkit.checkpoints import open_checkpoint
from tests.benchmarks.wide_teacher import write_wide
from tests.compress.directories import dense_directory


@pytest.mark.parametrize("times", [2, 3])
def test_the_wide_model_computes_the_same_function(tmp_path: Path, times: int) -> None:
    narrow = dense_directory(tmp_path / "narrow", torch.float32)
    write_wide(open_checkpoint(narrow), tmp_path / "wide", times)
    one, other = labkit.load(narrow, device="cpu"), labkit.load(tmp_path / "wide", device="cpu")
    assert other.config.hidden_size == times * one.config.hidden_size
    assert other.config.parameter_count > 0.9 * times * one.config.parameter_count
    ids = [(7 * place * place + 3) % 97 for place in range(40)]
    expected = one.logits(ids)
    assert expected.std() > 0.1
    assert torch.allclose(other.logits(ids), expected, atol=1e-4)
