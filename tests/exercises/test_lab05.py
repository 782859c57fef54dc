"""Measurements of lab 05: a learner's quantizer makes a model, and the helper functions that draw the lab's figures compute the
right values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import labkit
from labkit.answers.lab05.fp8 import fp8_cast
from labkit.answers.lab05.training import fake_quantize
from labkit.answers.lab05.weights import quantize_weight
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.errors import InvalidRequest
from labkit.exercises.lab05 import fp8_steps, own_model, qat, tensors, throughput, tradeoff
from labkit.exercises.lab05.draws import TIE_MARGIN, away_from_ties
from labkit.exercises.lab05.gptq import upper_factor
from labkit.measure import Timing


@pytest.fixture(scope="module")
def model() -> Path:
    """A directory with 4-bit weights in groups of 64, made by a quantizer that a learner could have written."""
    return own_model.make(quantize_weight, 4, 64).path


def test_the_engine_runs_the_learners_integers(model: Path) -> None:
    name = "transformer.h.3.mlp.fc_in.weight"
    integers, scales = quantize_weight(tensors.weight(name), 4, 64)
    right = integers * scales.half().float().repeat_interleave(64, 1)
    assert torch.equal(open_checkpoint(model).read(name, dtype=torch.float32), right)
    with labkit.load(model, device="cpu") as engine:
        (answer,) = engine.generate(["The condition of our country"], labkit.SamplingParams(max_new_tokens=8, ignore_eos=True))
    assert len(answer.token_ids) == 8


def test_the_directory_says_whose_rounding_it_has(model: Path) -> None:
    said = json.loads((model / "compression.json").read_text("utf-8"))
    assert said["method"] == "int4-own"
    again = json.loads((own_model.make(quantize_weight, 4, 64).path / "compression.json").read_text("utf-8"))
    assert said["rounding"] != again["rounding"]  # so the unfinished files of another function are never reused


def no_scales(weight: Tensor, bits: int, group_size: int) -> Any:
    return quantize_weight(weight, bits, group_size)[0]


def too_many_scales(weight: Tensor, bits: int, group_size: int) -> Any:
    return quantize_weight(weight, bits, group_size // 2)


def too_large(weight: Tensor, bits: int, group_size: int) -> Any:
    integers, scales = quantize_weight(weight, bits, group_size)
    return integers * 2, scales


def not_finite(weight: Tensor, bits: int, group_size: int) -> Any:
    integers, scales = quantize_weight(weight, bits, group_size)
    return integers, scales / 0


@pytest.mark.parametrize(
    ("quantizer", "said"),
    [
        (no_scales, "must return integers [3, 8] and scales [3, 2]"),
        (too_many_scales, "must return integers [3, 8] and scales [3, 2]"),
        (too_large, "4 bits hold -8 to 7"),
        (not_finite, "scales must be finite"),
    ],
)
def test_an_answer_that_cannot_be_stored_is_refused(quantizer: Any, said: str) -> None:
    weight = torch.arange(24, dtype=torch.float32).view(3, 8) - 11
    with pytest.raises(InvalidRequest) as raised:
        own_model.as_rounding(quantizer)(weight, IntegerScheme(4, 4))
    assert said in str(raised.value)


def test_the_learners_function_gets_a_copy() -> None:
    def changes(weight: Tensor, bits: int, group_size: int) -> Any:
        answer = quantize_weight(weight, bits, group_size)
        weight.zero_()
        return answer

    weight = torch.randn(2, 8)
    before = weight.clone()
    own_model.as_rounding(changes)(weight, IntegerScheme(8, None))
    assert torch.equal(weight, before)


def test_no_number_is_left_near_a_tie() -> None:
    numbers, steps = torch.randn(4000, generator=torch.Generator().manual_seed(0)), torch.tensor(0.01)
    moved = away_from_ties(numbers, steps)
    place = moved / steps
    assert float(((place - place.floor()) - 0.5).abs().min()) >= TIE_MARGIN - 1e-3
    assert 0 < int((moved != numbers).sum()) < 400
    assert float((moved - numbers).abs().max()) < 0.01


def test_the_factor_is_that_of_the_inverse_hessian() -> None:
    x = torch.randn(60, 7, generator=torch.Generator().manual_seed(1))
    hessian = x.T @ x / 60
    factor = upper_factor(hessian, damping=0.0)
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor @ hessian, torch.eye(7), atol=1e-4)


def test_the_scale_of_fp8_follows_one_step_late() -> None:
    found = fp8_steps.follow(fp8_cast)
    too_large = [a > b for a, b in zip(found["largest of x"], found["largest that fits"], strict=True)]
    assert too_large[fp8_steps.SPIKE_AT]
    assert found["largest that fits"][fp8_steps.SPIKE_AT + 1] >= found["largest of x"][fp8_steps.SPIKE_AT]
    usual = [error for error, over in zip(found["error in %"], too_large, strict=True) if not over]
    assert max(usual) < 5 < found["error in %"][fp8_steps.SPIKE_AT]


def test_training_sees_the_rounded_weights_and_changes_the_dense_ones() -> None:
    student = qat.student(fake_quantize, 2)
    layer = student.transformer.h[0].mlp.fc_in
    assert len(layer.weight[0].unique()) <= 4
    dense = layer.parametrizations.weight.original
    (ids,) = qat.training_windows(1, batch=1)
    student(ids[:, :16], labels=ids[:, :16]).loss.backward()
    assert float(dense.grad.abs().sum()) > 0
    assert ids.shape == (1, qat.WINDOW)
    assert not torch.equal(qat.training_windows(2)[0], qat.training_windows(2)[1])


def test_the_table_has_the_rows_and_products_of_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "OUT", 64)
    monkeypatch.setattr(throughput, "IN", 128)
    device = torch.device("cpu")
    found = throughput.measure(device, "bandwidth", seconds=0.05)
    assert list(found) == ["FP32", "FP16", "INT8", "INT4"]
    assert all(len(column) == len(found) == len(throughput.names(device)) for column in throughput.LECTURE.values())
    x = torch.randn(3, 128)
    right = throughput.products(device)["FP32"](x)
    for name, most in {"FP16": 0.02, "INT8": 0.03, "INT4": 0.2}.items():
        made = throughput.products(device)[name](x).float()
        assert 0 < float((made - right).norm() / right.norm()) < most


def test_the_figure_of_bits_shows_every_model() -> None:
    rows = [tradeoff.Row("fp32", 32, 42.0, 1.28, 1.2, 1.4), tradeoff.Row("int2", 2.25, 7.0, 3.0, 2.8, 3.2)]
    timings = {"fp32": Timing((0.1, 0.1, 0.2)), "int2": Timing((0.2, 0.2, 0.2))}
    figure = tradeoff.figure(rows, timings, guess=2.0)
    left, right = figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["fp32\n32\n42.0 MB", "int2\n2.25\n7.0 MB"]
    assert [text.get_text() for text in left.texts] == ["1.28", "3.00"]
    assert right.lines[0].get_xydata()[:, 1].tolist() == [tradeoff.TASK.new_tokens / 0.1, tradeoff.TASK.new_tokens / 0.2]


def test_quality_is_that_of_the_held_out_text(model: Path) -> None:
    with labkit.load(model, device="cpu") as engine:
        row = tradeoff.quality("int4", engine, 4.25, tradeoff.megabytes_of(model))
    assert 1.0 < row.low < row.bits_per_byte < row.high < 2.0
    assert 8 < row.megabytes < 12
