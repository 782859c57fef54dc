"""Sensitivity and mixed precision: the damage by each matrix is measured with only this matrix replaced, and no choice of bits
is better than the choice found.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress import compress, method_named
from labkit.compress.choose_bits import SENSITIVITY
from labkit.compress.dense_model import DenseModel
from labkit.compress.mixed import choose_bits, expected_damage
from labkit.compress.plots import quality_plot, sensitivity_plot
from labkit.compress.round_to_nearest import round_to_nearest
from labkit.compress.sensitivity import Damage, matrices_only, measure_sensitivity
from labkit.errors import InvalidRequest
from tests.compress.directories import CONFIG, dense_directory

IDS = [list(range(3, 43)), [(7 * each) % 97 for each in range(40)]]


def nearest(weight: Tensor, hessian: Tensor, scheme: IntegerScheme) -> Tensor:
    assert hessian.shape == (weight.shape[1], weight.shape[1])
    return round_to_nearest(weight, scheme).dequantize()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DenseModel:
    return DenseModel(open_checkpoint(dense_directory(tmp_path_factory.mktemp("dense") / "model")))


@pytest.fixture(scope="module")
def damages(model: DenseModel) -> list[Damage]:
    return measure_sensitivity(model, IDS, 32, nearest, bits=(4, 2))


def test_a_damage_is_that_of_the_model_with_one_matrix_replaced(model: DenseModel, damages: list[Damage]) -> None:
    assert len(damages) == CONFIG.num_layers * 2 * (6 + 1)
    assert len(matrices_only(damages)) == CONFIG.num_layers * 2 * 6
    name = "transformer.h.1.mlp.fc_in"
    replaced = {f"{name}.weight": round_to_nearest(model.tensors[f"{name}.weight"], IntegerScheme(2, 32)).dequantize()}
    divergence = loss = 0.0
    for ids in IDS:
        before, after = (torch.log_softmax(model.logits(ids, each).double(), -1) for each in (None, replaced))
        divergence += float((before.exp() * (before - after)).sum(-1).mean()) / len(IDS)
        loss += float((before - after)[torch.arange(39), ids[1:]].mean()) / len(IDS)
    (found,) = [each for each in damages if (each.module, each.bits) == (name, 2)]
    assert found.weights == 256 * 64
    assert found.divergence == pytest.approx(divergence, rel=1e-3)
    assert found.loss_increase == pytest.approx(loss, abs=1e-5)


def test_fewer_bits_and_more_matrices_damage_more(damages: list[Damage]) -> None:
    found = {(each.module, each.bits): each.divergence for each in damages}
    for module in {module for module, _ in found}:
        assert found[module, 2] > 2 * found[module, 4] > 0
    assert all(
        found["transformer.h.0", 2] > value for (name, bits), value in found.items() if name.startswith("transformer.h.0.")
    )


def test_the_choice_is_the_best_of_all(damages: list[Damage]) -> None:
    few = [each for each in matrices_only(damages) if ".h.0." in each.module and "attn" in each.module]
    few += [each for each in damages if each.module == "transformer.h.0.mlp.fc_in"]
    expected, sizes = expected_damage(few), {each.module: each.weights for each in few}
    assert len(sizes) == 5
    for average in (2.0, 3.3, 4.5, 8.0):
        limit = average * sum(sizes.values())
        least = min(
            sum(expected[name][bits] for name, bits in zip(expected, chosen, strict=True))
            for chosen in itertools.product((2, 4, 5, 6, 7, 8), repeat=5)
            if sum(sizes[name] * bits for name, bits in zip(expected, chosen, strict=True)) <= limit
        )
        found = choose_bits(few, average)
        assert sum(sizes[name] * bits for name, bits in found.items()) <= limit
        assert sum(expected[name][bits] for name, bits in found.items()) == pytest.approx(least)
    with pytest.raises(InvalidRequest, match=r"1\.9 bits per weight are too few"):
        choose_bits(few, 1.9)


@pytest.mark.long
def test_gptj_tiny_in_mixed_precision(tmp_path: Path) -> None:
    from labkit.compress import CalibrationText

    text = CalibrationText("text", CalibrationText.read().text[:3000])
    target = tmp_path / "mixed"
    result = compress("gptj-tiny", target, method_named("mixed", bits=3.4), calibration=text, windows=2, window=32)
    assert 3.2 < result.bits_per_weight <= 3.4
    kept = json.loads((target / SENSITIVITY).read_text())
    assert len(kept["bits"]) == 48
    assert len(set(kept["bits"].values())) > 1
    checkpoint = open_checkpoint(target)
    for name, bits in kept["bits"].items():
        stored = checkpoint.integers(f"{name}.weight")  # type: ignore[attr-defined]
        assert stored.scheme == IntegerScheme(bits, 64)
    with labkit.load(target, device="cpu", dtype="fp32") as engine:
        assert torch.isfinite(engine.logits([5, 6, 7])).all()


def test_figures(damages: list[Damage], tmp_path: Path) -> None:
    figure = sensitivity_plot(damages)
    texts = [each.get_text() for each in figure.axes[0].texts]
    assert len(texts) == 12
    (largest,) = [each for each in damages if each.bits == 4 and each.module == "transformer.h.1.mlp.fc_out"]
    assert texts[-1] == f"{1e3 * largest.divergence:.2f}"
    figure.savefig(tmp_path / "map.png")
    with pytest.raises(InvalidRequest, match="no damage was measured at 7 bits"):
        sensitivity_plot(damages, bits=7)
    lines = {"gptq": [(4.25, 0.4, 0.2, 0.6), (8.05, -0.02, -0.05, 0.01)]}
    axes = quality_plot(lines, speeds={"engine": [(4.25, 90.0), (8.05, 60.0)]}).axes
    assert list(axes[0].lines[0].get_ydata()) == [0.4, 0.01]
    assert list(axes[1].lines[0].get_ydata()) == [90.0, 60.0]


def test_refusals() -> None:
    for options, said in (
        ({"name": "mixed"}, "give --bits with the method mixed and with no other method"),
        ({"name": "int4-gptq", "bits": 4.5}, "give --bits with the method mixed and with no other method"),
        ({"name": "mixed", "bits": 1.5}, "an average above 2 and at most 8.5"),
        ({"name": "mixed", "bits": 4.5, "asymmetric": True}, "leave --asymmetric out"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            method_named(**options)  # type: ignore[arg-type]
    for group_size, bits in ((64, 2.25), (0, 2.25), (32, 2.5)):  # 64 inputs, so 0 is also a group of 64
        method_named("mixed", group_size=group_size, bits=bits).check(CONFIG)
        with pytest.raises(InvalidRequest, match=f"give --bits of at least {bits}"):
            method_named("mixed", group_size=group_size, bits=bits - 0.01).check(CONFIG)
