"""Optimised graphs are read back, and their fusions, kernels and bytes are checked. INT8, torch.compile and the figures are
tested too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from labkit.checkpoints import open_checkpoint
from labkit.compress.calibration import HELD_OUT
from labkit.engine import load
from labkit.graphs.compiled import examine, plain_model
from labkit.graphs.export import export
from labkit.graphs.exported import ExportedModel
from labkit.graphs.fused_nodes import Fusion, fusions, operators
from labkit.graphs.int8 import quantize_int8
from labkit.graphs.lecture_list import lecture_list
from labkit.graphs.levels import LevelFound, compare_levels
from labkit.graphs.plots import levels_plot
from labkit.graphs.runner import GraphModel
from labkit.graphs.session import LEVELS, SessionSettings
from labkit.graphs.verify import graph_quality
from tests.refusals import refused


def graph(nodes: list[Any], inputs: list[str], outputs: list[str]) -> Any:
    def values(names: list[str]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

    return helper.make_model(helper.make_graph(nodes, "g", values(inputs), values(outputs)))


def node(kind: str, inputs: str, output: str) -> Any:
    return helper.make_node(kind, inputs.split(), [output])


def test_a_fusion_is_what_lies_between_inputs_and_outputs() -> None:
    before = graph(
        [node("MatMul", "x w", "a"), node("Mul", "a s", "b"), node("Tanh", "b", "c"), node("Add", "c x", "y")],
        ["x", "w", "s"],
        ["y"],
    )
    after = graph([node("FusedMatMul", "x w", "b"), node("Tanh", "b", "c"), node("Add", "c x", "y")], ["x", "w"], ["y"])
    assert fusions(before, after) == [Fusion("FusedMatMul", ("MatMul", "Mul"), 1)]
    assert fusions(before, before) == []
    assert operators(after) == {"FusedMatMul": 1, "Tanh": 1, "Add": 1}


@pytest.fixture(scope="module")
def levels(in_parts: ExportedModel) -> list[LevelFound]:
    return compare_levels(in_parts, batch=2, past=7)


def test_each_level_is_read_back(levels: list[LevelFound], in_parts: ExportedModel) -> None:
    assert [level.level for level in levels] == list(LEVELS)
    none, basic, extended, full = levels
    plain = sum(
        (operators(onnx.load(part.path, load_external_data=False)) for part in in_parts.parts), start=operators(_nothing())
    )
    assert none.operators == dict(plain)
    assert none.fusions == ()
    assert none.nodes > basic.nodes > extended.nodes >= full.nodes
    assert none.work.kernels > extended.work.kernels > 0
    assert none.work.moved_bytes > extended.work.moved_bytes > 0


def _nothing() -> Any:
    return helper.make_model(helper.make_graph([], "empty", [], []))


def test_the_layer_norms_become_one_node_each(levels: list[LevelFound]) -> None:
    """This is the lecture's first fusion: all operations of a layer norm become one. The model has three layer norms: one in
    each of its two blocks, and a final one.
    """
    joined = [one for one in levels[2].fusions if {"ReduceMean", "Pow", "Sqrt"} <= set(one.replaced)]
    assert sum(one.count for one in joined) == 3
    assert {one.kind for one in joined} <= {"LayerNormalization", "SkipLayerNormalization"}


@pytest.mark.parametrize(("batch", "past"), [(0, 5), (1, 0), (1, 61)])
def test_a_step_that_does_not_fit_is_refused(batch: int, past: int, in_parts: ExportedModel) -> None:
    with refused([f"batch is {batch} and past is {past}", "1 to 60 cached tokens"]):
        compare_levels(in_parts, batch=batch, past=past)


def test_the_lectures_list(levels: list[LevelFound]) -> None:
    """Check which optimisations of the lecture's list ONNX Runtime made on a CPU. Without optimisation, it made none."""
    done = {item.what: (item.done, item.places) for item in lecture_list(levels[0], levels[2])}
    assert done.pop("transpositions gone")[1] == levels[0].operators["Transpose"]
    assert list(done.values()) == [(3, 3), (2, 2), (2, 2), (0, 2), (0, 2)]
    assert [item.done for item in lecture_list(levels[0], levels[0])] == [0] * 6


def test_bytes_of_weights_are_those_of_the_model(levels: list[LevelFound], in_parts: ExportedModel) -> None:
    """A step reads every matrix once, and only some rows of the embedding, no matter how the graph is cut and fused."""
    config = in_parts.config
    matrices = config.num_layers * 12 * config.hidden_size**2 + config.hidden_size * config.vocab_size
    for level in levels:
        assert 4 * matrices <= level.work.weight_bytes < 1.05 * 4 * matrices


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_computes_the_same(level: str, in_parts: ExportedModel, whole: ExportedModel) -> None:
    rows = np.asarray([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    truth = GraphModel(whole, SessionSettings("none")).prefill(rows)
    found = GraphModel(in_parts, SessionSettings(level)).prefill(rows)
    assert np.abs(found - truth).max() < 1e-5 * np.abs(truth).max()
    assert np.abs(truth).max() > 0.1


def test_int8_by_onnx_runtimes_quantizer(in_parts: ExportedModel, tmp_path: Path) -> None:
    small = quantize_int8(in_parts, tmp_path / "int8")
    assert small.byte_count < 0.5 * in_parts.byte_count  # the embedding stays in fp32
    nodes = [operators(onnx.load(part.path, load_external_data=False))["MatMulInteger"] for part in small.parts]
    assert nodes == [6, 7]
    rows = np.asarray([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    truth, found = GraphModel(in_parts).prefill(rows), GraphModel(small).prefill(rows)
    assert 1e-4 < np.abs(found - truth).max() / np.abs(truth).max() < 0.1


def test_only_graphs_in_fp32_are_quantized(in_parts: ExportedModel, tmp_path: Path) -> None:
    with refused(["fp16", "fp32"]):
        quantize_int8(replace(in_parts, precision="fp16"), tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


@pytest.mark.long
def test_the_quality_of_int8_on_text(tmp_path: Path) -> None:
    exported = export("gptj-tiny", tmp_path / "graph")
    small = quantize_int8(exported, tmp_path / "int8")
    text = HELD_OUT.read_text("utf-8")[:1500]
    with load("gptj-tiny", dtype="fp32", device="cpu") as engine:
        same = graph_quality(GraphModel(exported), engine, text)
        rounded = graph_quality(GraphModel(small), engine, text)
    assert same.agreement.value == 1.0
    assert abs(same.kl.value) < 1e-6
    assert 1e-6 < rounded.kl.value < 0.05
    assert rounded.agreement.value > 0.85


@pytest.mark.long
def test_torch_compile_is_examined(source: Path) -> None:
    model = plain_model(open_checkpoint(source), "fp32", torch.device("cpu"))
    found = examine(model, batch=2, past=5)
    assert (found.graphs, found.breaks) == (1, 0)
    assert found.operations > 100
    assert found.kernels > 3
    assert found.compile_seconds > 0


def test_levels_are_drawn(levels: list[LevelFound]) -> None:
    figure = levels_plot(levels, "a caption")
    kernels, moved = figure.axes
    bars: list[list[Any]] = [list(kernels.patches), list(moved.patches)]
    assert [bar.get_width() for bar in bars[0]] == [level.work.kernels for level in levels]
    total = sum(bar.get_width() for bar in bars[1])
    assert total == pytest.approx(sum(level.work.moved_bytes for level in levels) / 1e6)
    assert [text.get_text() for text in kernels.get_yticklabels()] == list(LEVELS)
