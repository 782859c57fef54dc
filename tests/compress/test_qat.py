"""Quantization-aware training: gradients follow the papers' formulas, the loss falls, and a killed training run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress import CalibrationText, compress, method_named
from labkit.compress.dense_model import DenseModel
from labkit.compress.fake_quantization import fake_quantized, quantized
from labkit.compress.qat import QatOptions, started, train
from labkit.compress.scales import searched
from labkit.errors import InvalidRequest, LabkitError
from tests.compress.directories import dense_directory

SCHEME = IntegerScheme(3, 32)
IDS = [[(5 * each + shift) % 97 for each in range(24)] for shift in range(5)]


def test_gradients_are_those_of_lsq() -> None:
    """Inside the range, a weight has the gradient 1 and the scale has round(x) - x.

    Outside the range, a weight has the gradient 0, and the scale has the nearest end of the range.
    """
    scale = torch.tensor([[0.5]], requires_grad=True)
    weight = torch.tensor([[0.6, -0.3, 9.0, -9.0]], requires_grad=True)
    out = fake_quantized(weight, scale, IntegerScheme(3))
    assert out.tolist() == [[0.5, -0.5, 1.5, -2.0]]
    factors = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    (out * factors).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 10.0, 0.0, 0.0]]
    assert scale.grad is not None
    expected = 1 * (1 - 1.2) + 10 * (-1 + 0.6) + 100 * 3 + 1000 * -4
    assert float(scale.grad) == pytest.approx(expected)


def test_what_is_stored_is_what_was_trained() -> None:
    weight, scales = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)), torch.full((5, 2), -0.3)
    found = quantized(weight, scales, SCHEME)
    assert torch.allclose(found.dequantize(), fake_quantized(weight, scales, SCHEME), atol=1e-6)
    assert found.values.abs().sum() > 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DenseModel:
    return DenseModel(open_checkpoint(dense_directory(tmp_path_factory.mktemp("dense") / "model")))


@pytest.fixture(scope="module")
def start(model: DenseModel) -> dict[str, IntegerWeight]:
    names = [name for name, tensor in model.tensors.items() if tensor.dim() == 2 and ".h." in name]
    return {name.removesuffix(".weight"): searched(model.tensors[name], SCHEME).round(model.tensors[name]) for name in names}


def divergence(model: DenseModel, matrices: dict[str, IntegerWeight]) -> float:
    replaced, total = {f"{name}.weight": matrix.dequantize() for name, matrix in matrices.items()}, 0.0
    for ids in IDS:
        teacher, student = (torch.log_softmax(model.logits(ids, each), -1) for each in (None, replaced))
        total += float((teacher.exp() * (teacher - student)).sum(-1).mean()) / len(IDS)
    return total


def trained(model: DenseModel, start: dict[str, IntegerWeight], file: Path, progress: Any = None) -> dict[str, IntegerWeight]:
    options = QatOptions(steps=24, weight_rate=0.02, scale_rate=0.002)
    return train(model, start, IDS, options, 0, file, progress or (lambda done, total, name: None))


def test_training_begins_with_the_given_integers(model: DenseModel, start: dict[str, IntegerWeight]) -> None:
    state = started(model, start)
    for name, matrix in start.items():
        found = quantized(state.weights[name], state.scales(name), SCHEME)
        assert torch.equal(found.values, matrix.values)
        assert torch.equal(found.scales, matrix.scales)


def test_the_predictions_come_closer(model: DenseModel, start: dict[str, IntegerWeight], tmp_path: Path) -> None:
    told: list[str] = []
    found = trained(model, start, tmp_path / "state.safetensors", lambda done, total, name: told.append(name))
    assert divergence(model, found) < 0.5 * divergence(model, start)
    assert told[0] == "training step 1"
    assert "divergence 0." in told[-1]
    assert told[-1].endswith("left")
    assert any(not torch.equal(found[name].values, start[name].values) for name in found)
    assert any(not torch.equal(found[name].scales, start[name].scales) for name in found)


def stop_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, name: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_a_killed_training_goes_on_to_the_same_result(
    model: DenseModel, start: dict[str, IntegerWeight], tmp_path: Path
) -> None:
    whole = trained(model, start, tmp_path / "whole.safetensors")
    file, begun = tmp_path / "state.safetensors", []
    with pytest.raises(KeyboardInterrupt):
        trained(model, start, file, stop_at(17))
    again = trained(model, {}, file, lambda done, total, name: begun.append(done))
    assert begun[0] == 16  # the last step after which the state was saved
    for name, matrix in whole.items():
        assert torch.equal(matrix.values, again[name].values)
        assert torch.equal(matrix.scales, again[name].scales)


def test_a_loss_that_is_not_finite(model: DenseModel, start: dict[str, IntegerWeight], tmp_path: Path) -> None:
    broken = DenseModel.__new__(DenseModel)
    broken.config, broken.tensors = model.config, model.tensors | {"lm_head.bias": torch.full((97,), torch.nan)}
    with pytest.raises(LabkitError, match="the loss of training step 1 is not finite"):
        trained(broken, start, tmp_path / "state.safetensors")


def test_a_directory_and_its_settings(tmp_path: Path) -> None:
    text = CalibrationText("text", CalibrationText.read().text[:2000])
    method = method_named("int4-qat", steps=1, continuations=1)
    assert str(method.scheme) == "int4 per channel"
    result = compress("gptj-tiny", tmp_path / "model", method, calibration=text, windows=2, window=16)
    assert result.windows == 2
    assert not list((tmp_path / "model").glob("training*")) + list((tmp_path / "model").glob("written*"))
    assert json.loads((tmp_path / "model" / "compression.json").read_text())["training"]["continuations"] == 1
    assert open_checkpoint(result.path).kernel_precision == "int4"  # type: ignore[attr-defined]


def test_refusals() -> None:
    with pytest.raises(InvalidRequest, match="steps of the training is 0"):
        method_named("int4-qat", steps=0)
    with pytest.raises(InvalidRequest, match="continuations is -1"):
        method_named("int4-qat", continuations=-1)
    with pytest.raises(InvalidRequest, match="continuations is 2, but method int4-gptq trains nothing"):
        method_named("int4-gptq", continuations=2)
    with pytest.raises(InvalidRequest, match="no zero points"):
        method_named("int4-qat", asymmetric=True)
