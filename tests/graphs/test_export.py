"""Exports, whole and in parts, give the results of transformers and of the engine for any batch size and prompt length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from labkit.checkpoints import open_checkpoint
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError
from labkit.graphs import verify as verify_module
from labkit.graphs.export import build_graph, export
from labkit.graphs.exported import ExportedModel, open_export
from labkit.graphs.plain_gptj import PlainGPTJ, load_weights, weight_reader
from labkit.graphs.runner import GraphModel
from labkit.graphs.verify import verify
from labkit.model.part import Part
from tests.graphs.conftest import SHAPE
from tests.models import peer_greedy, random_peer, random_prompts
from tests.refusals import refused
from tests.sampled import as_long

SIZES = [(1, 1), (1, 7), (3, 5), (2, 30)]
"""Pairs of the batch size and the length of the prompts."""


def reference(peer: Any, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(peer(torch.from_numpy(rows)).logits)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("form", [as_long("whole"), "in_parts"])
def test_logits_are_those_of_transformers_at_every_step(form: str, peer: Any, request: pytest.FixtureRequest) -> None:
    model = GraphModel(request.getfixturevalue(form))
    for batch, length in SIZES:
        rows = np.asarray(random_prompts(211, [length + 6] * batch, seed=length), np.int64)
        truth = reference(peer, rows)
        assert error(model.prefill(rows[:, :length]), truth[:, length - 1]) < 1e-5
        for first, last in ((length, length + 1), (length + 1, length + 5), (length + 5, length + 6)):
            assert error(model.step(rows[:, first:last]), truth[:, last - 1]) < 1e-5


def test_greedy_tokens_are_those_of_transformers(in_parts: ExportedModel, peer: Any) -> None:
    model = GraphModel(in_parts)
    lengths, chosen = [], set()
    for prompt in random_prompts(211, [1, 9, 20], seed=5):
        made = model.greedy(np.asarray([prompt]), 12)[0].tolist()
        wanted = peer_greedy(peer, prompt, 12)  # ends early at the end-of-text token
        assert made[: len(wanted)] == wanted
        lengths.append(len(wanted))
        chosen |= set(made)
    assert max(lengths) == 12
    assert len(chosen) > 3


def test_a_verified_export_agrees_with_the_engine(in_parts: ExportedModel, source: Path) -> None:
    found = verify(in_parts, source)
    assert 0 < found.relative_error <= 1e-5
    assert found.same_tokens
    assert found.positions > 3


def test_the_comparison_can_fail(in_parts: ExportedModel, tmp_path: Path, peer: Any) -> None:
    """An export with the weights of another model of the same shape can be opened, but fails verification."""
    other = random_peer(SHAPE, seed=4)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="does not compute what the engine computes"):
        verify(in_parts, tmp_path / "other")


@pytest.mark.long
def test_fp16_is_near_the_engine_and_half_as_large(source: Path, whole: ExportedModel, tmp_path: Path) -> None:
    half = export(source, tmp_path / "half", precision="fp16")
    found = verify(half, source)
    assert 1e-5 < found.relative_error < verify_module.TOLERANCE["fp16"]
    assert half.parts[0].weights.stat().st_size < 0.7 * whole.parts[0].weights.stat().st_size


@pytest.mark.long
@pytest.mark.parametrize("opset", [18, 23])
def test_the_operator_set_is_the_one_asked_for(opset: int, source: Path, tmp_path: Path) -> None:
    made = export(source, tmp_path / "graph", opset=opset)
    assert made.opset == opset
    model = onnx.load(made.parts[0].path, load_external_data=False)
    assert {each.version for each in model.opset_import if each.domain == ""} == {opset}
    assert verify(made, source).same_tokens


def test_sizes_stay_variable_and_weights_are_outside(in_parts: ExportedModel) -> None:
    for part in in_parts.parts:
        model = onnx.load(part.path, load_external_data=False)
        assert [value.name for value in model.graph.input] == [tensor.name for tensor in part.tensors.inputs]
        assert [value.name for value in model.graph.output] == [tensor.name for tensor in part.tensors.outputs]
        entered = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        assert entered[:2] == ["batch", "tokens"]
        inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        assert inside < 1000
        assert not any(node.op_type == "Transpose" and node.input[0].endswith("weight") for node in model.graph.node)
    assert in_parts.parts[0].tensors.leaves.name == in_parts.parts[1].tensors.enters.name == "hidden_1"


def test_a_graph_is_made_without_weights() -> None:
    """A model with 6 billion parameters is traced in little memory, because its weights are tensors without values."""
    config = GPTJConfig(hidden_size=4096, num_layers=28, num_heads=16, rotary_dim=64, context_length=2048, vocab_size=50400)
    graph = build_graph(config, Part(stage=27, stages=28), "fp32", 20)
    assert graph.graph.initializers["lm_head.weight"].shape.numpy() == (4096, 50400)


@pytest.mark.long
def test_weights_are_read_once_and_one_at_a_time(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    checkpoint = open_checkpoint(source)
    alive: list[Any] = []
    read: list[str] = []
    plain = checkpoint.read

    def counted(name: str, **options: Any) -> torch.Tensor:
        gc.collect()
        assert sum(one() is not None for one in alive) <= 1  # the tensor that was just written
        tensor = plain(name, **options)
        read.append(name)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(checkpoint, "read", counted)
    export(checkpoint, tmp_path / "graph", parts=2)
    assert sorted(read) == sorted(checkpoint.tensor_names())


def test_the_plain_model_in_torch_is_transformers_in_float64(source: Path, peer: Any) -> None:
    """This tests only the formulas, without ONNX, to the accuracy of float64."""
    checkpoint = open_checkpoint(source)
    model = PlainGPTJ(checkpoint.config, dtype=torch.float64, device="cpu")
    load_weights(model, weight_reader(checkpoint.config, lambda name: checkpoint.read(name, dtype=torch.float64)))
    rows = torch.tensor(random_prompts(211, [9, 9], seed=1))
    import copy

    with torch.no_grad():
        logits, *_ = model(rows, model.empty_past(2))
        truth = copy.deepcopy(peer).double()(rows).logits[:, -1]
    assert float((logits - truth).abs().max() / truth.abs().max()) < 1e-6  # transformers keeps its rotary table in float32


def test_requests_that_cannot_be_run(in_parts: ExportedModel) -> None:
    model = GraphModel(in_parts)
    with refused(["there is no batch yet", "prefill"]):
        model.step(np.ones((1, 1), np.int64))
    with refused(["[2, 0]", "[batch, tokens]"]):
        model.prefill(np.ones((2, 0), np.int64))
    with refused(["float64", "whole numbers"]):
        model.prefill(np.ones((2, 3)))
    with refused(["from 1 to 211", "0 to 210"]):
        model.prefill(np.asarray([[1, 211]]))
    model.prefill(np.ones((2, 60), np.int64))
    with refused(["3 rows", "the batch has 2"]):
        model.step(np.ones((3, 1), np.int64))
    with refused(["60 cached and 2 new", "context of 61"]):
        model.step(np.ones((2, 2), np.int64))


def test_an_export_can_be_moved(in_parts: ExportedModel, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(in_parts.path, tmp_path / "moved")
    moved = open_export(tmp_path / "moved")
    rows = np.asarray([[1, 2, 3]])
    assert np.array_equal(GraphModel(moved).prefill(rows), GraphModel(in_parts).prefill(rows))
