"""labkit's repository checker checks the generated configurations of exported parts: the connections between the parts, their
platforms and their files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.graphs.exported import ExportedModel, ExportedPart
from labkit.graphs.tensors import part_tensors
from labkit.model.part import Part
from labkit.serving.repository.checker.check_repository import check_repository
from labkit.serving.repository.graph_models import PLATFORMS, GraphServing, graph_models, write_graph_repository
from tests.refusals import refused

CONFIG = GPTJConfig(hidden_size=96, num_layers=5, num_heads=3, rotary_dim=6, context_length=61, vocab_size=211)


def exported(folder: Path, count: int, precision: str = "fp32") -> ExportedModel:
    """An export whose files hold no graphs, because configurations are made from the export's description alone."""
    parts = []
    for stage in range(count):
        layers = Part(stage=stage, stages=count).layers(CONFIG.num_layers)
        path = folder / f"part_{stage}" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"graph")
        path.with_name("model.onnx.data").write_bytes(b"weights")
        parts.append(ExportedPart(path, layers, part_tensors(CONFIG, precision, stage, count, layers)))
    return ExportedModel(folder, "random", CONFIG, precision, 20, tuple(parts))


def serving(platform: str, count: int, **more: int) -> GraphServing:
    return GraphServing(platform=platform, gpus=tuple(range(count)) if platform == "tensorrt_plan" else (), **more)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_checker_finds_no_fault(platform: str, count: int, tmp_path: Path) -> None:
    model = exported(tmp_path / "export", count)
    names = write_graph_repository(tmp_path / "repository", model, serving(platform, count, instances=2))
    assert len(names) == (1 if count == 1 else count + 1)
    assert names[-1] == "gptj_graph"
    assert [str(fault) for fault in check_repository(tmp_path / "repository")] == []


def test_the_checker_sees_a_cut_wire(tmp_path: Path) -> None:
    write_graph_repository(tmp_path / "repository", exported(tmp_path / "export", 2), GraphServing())
    config = tmp_path / "repository" / "gptj_graph" / "config.pbtxt"
    text = config.read_text()
    assert text.count('"_hidden_1"') == 2
    config.write_text(text.replace('key: "hidden_1" value: "_hidden_1"', 'key: "hidden_1" value: "_hidden"', 1))
    assert any("_hidden" in str(fault) for fault in check_repository(tmp_path / "repository"))


def test_only_the_hidden_state_crosses_the_seams(tmp_path: Path) -> None:
    models = graph_models(exported(tmp_path, 3), GraphServing())
    ensemble = models["gptj_graph"]
    inside = [
        wire for step in ensemble.steps for wire in (*step.input_map.values(), *step.output_map.values()) if wire[0] == "_"
    ]
    assert sorted(inside) == ["_hidden_1", "_hidden_1", "_hidden_2", "_hidden_2"]
    assert {spec.name for spec in ensemble.inputs} == {
        "input_ids",
        *(f"past_key_values.{layer}.{what}" for layer in range(5) for what in ("key", "value")),
    }
    assert "logits" in {spec.name for spec in ensemble.outputs}
    assert len(ensemble.outputs) == 11


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "FP32"), ("fp16", "FP16")])
def test_dims_have_no_batch(precision: str, dtype: str, tmp_path: Path) -> None:
    models = graph_models(exported(tmp_path, 2, precision), GraphServing())
    first, second = models["gptj_graph_part_0"], models["gptj_graph_part_1"]
    assert [(spec.name, spec.dtype, spec.dims) for spec in first.inputs[:2]] == [
        ("input_ids", "INT64", (-1,)),
        ("past_key_values.0.key", dtype, (3, -1, 32)),
    ]
    assert (second.inputs[0].name, second.inputs[0].dtype, second.inputs[0].dims) == ("hidden_1", dtype, (-1, 96))
    assert (second.outputs[0].name, second.outputs[0].dims) == ("logits", (211,))
    assert "layers 0 to 2" in first.meaning.lower()


def test_each_part_has_its_own_gpu_and_files(tmp_path: Path) -> None:
    model = exported(tmp_path / "export", 2)
    repository = tmp_path / "repository"
    write_graph_repository(repository, model, GraphServing(platform="onnxruntime_onnx", gpus=(0, 3), instances=2))
    text = (repository / "gptj_graph_part_1" / "config.pbtxt").read_text()
    assert 'platform: "onnxruntime_onnx"' in text
    assert "backend" not in text
    assert "gpus: [ 3 ]" in text
    assert "kind: KIND_GPU" in text
    assert (repository / "gptj_graph_part_1" / "1" / "model.onnx").read_bytes() == b"graph"
    assert (repository / "gptj_graph_part_1" / "1" / "model.onnx.data").read_bytes() == b"weights"
    assert list((repository / "gptj_graph" / "1").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"platform": "openvino"}, ["'openvino'", "python, onnxruntime_onnx, tensorrt_plan"]),
        ({"instances": 0}, ["instances is 0"]),
        ({"threads": 0}, ["threads is 0"]),
        ({"platform": "onnxruntime_onnx", "gpus": (0,)}, ["gpus names 1 GPU for 2 parts"]),
        ({"platform": "tensorrt_plan"}, ["runs on a GPU", "gpus"]),
        ({"gpus": (0, 1)}, ["run on the CPU", "onnxruntime_onnx"]),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with refused(words):
        graph_models(exported(tmp_path, 2), GraphServing(**settings))


def test_a_folder_with_other_files_is_kept(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "mine").write_text("text")
    with pytest.raises(InvalidRequest, match="holds files that labkit did not write"):
        write_graph_repository(tmp_path / "repository", exported(tmp_path / "export", 2), GraphServing())
    assert (tmp_path / "repository" / "mine").read_text() == "text"
