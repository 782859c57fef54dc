"""Exports that are damaged or do not fit are refused with one sentence each."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from labkit.errors import CheckpointError, NotAvailable
from labkit.graphs import packages
from labkit.graphs.export import export
from labkit.graphs.exported import MANIFEST, ExportedModel, open_export
from labkit.graphs.session import SessionSettings, open_session
from tests.refusals import refused


def change(path: Path, edit: Callable[[Any], object]) -> None:
    model = onnx.load(path, load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())


def rename_seam(folder: Path) -> None:
    def edit(model: Any) -> None:
        model.graph.input[0].name = "middle_tensor"

    change(folder / "part_1" / "model.onnx", edit)


def other_hidden_size(folder: Path) -> None:
    def edit(model: Any) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 128

    change(folder / "part_0" / "model.onnx", edit)


def other_dtype(folder: Path) -> None:
    def edit(model: Any) -> None:
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

    change(folder / "part_0" / "model.onnx", edit)


def exchanged(folder: Path) -> None:
    (folder / "part_0").rename(folder / "part_x")
    (folder / "part_1").rename(folder / "part_0")
    (folder / "part_x").rename(folder / "part_1")


def other_opset(folder: Path) -> None:
    def edit(model: Any) -> None:
        model.opset_import[0].version = 99

    change(folder / "part_0" / "model.onnx", edit)


def cut_off(folder: Path) -> None:
    data = folder / "part_1" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])


def other_model(folder: Path) -> None:
    tensor = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 224, 224])
    node = onnx.helper.make_node("Identity", ["image"], ["same"])
    graph = onnx.helper.make_graph([node], "g", [tensor], [onnx.helper.make_tensor_value_info("same", 1, [1, 3, 224, 224])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    (folder / "part_0" / "model.onnx").write_bytes(model.SerializeToString())


def manifest(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        about = json.loads((folder / MANIFEST).read_text()) | changes
        (folder / MANIFEST).write_text(json.dumps(about))

    return edit


DAMAGED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a part is missing": (lambda folder: shutil.rmtree(folder / "part_1"), ["part_1/model.onnx is missing"]),
    "weights are missing": (
        lambda folder: (folder / "part_0/model.onnx.data").unlink(),
        ["model.onnx.data is missing", "needs"],
    ),
    "weights are cut off": (cut_off, ["model.onnx.data has 1,000 bytes", "needs"]),
    "a graph is text": (lambda folder: (folder / "part_0/model.onnx").write_text("hello"), ["is not an ONNX graph"]),
    "a graph is empty": (lambda folder: (folder / "part_0/model.onnx").write_bytes(b""), ["is not an ONNX graph"]),
    "another model": (other_model, ["has no input input_ids", "it has image"]),
    "parts are exchanged": (exchanged, ["has no input input_ids", "another part"]),
    "a seam has another name": (rename_seam, ["has no input hidden_1", "the seam to its neighbour", "middle_tensor"]),
    "a seam has another size": (other_hidden_size, ["output hidden_1 is float32 [batch, tokens, 128]", "needs float32", "96"]),
    "a seam has another dtype": (other_dtype, ["output hidden_1 is float16", "needs float32"]),
    "another operator set": (other_opset, ["operator set 99", "says 20"]),
    "no number of parts": (manifest(parts="two"), ["parts is 'two'", "export.json"]),
    "more parts than layers": (manifest(parts=3), ["parts is 3", "1 to 2"]),
    "another precision": (manifest(precision="int3"), ["precision is 'int3'", "fp32 or fp16"]),
    "no config": (manifest(config=None), ["export.json is not the description of an export", "config is None"]),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_export_is_refused_in_one_sentence(case: str, in_parts: ExportedModel, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(in_parts.path, folder)
    damage, words = DAMAGED[case]
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        open_export(folder)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_folder_without_an_export(tmp_path: Path) -> None:
    with refused(["has no export.json", "labkit export"]):
        open_export(tmp_path)


def test_an_operator_set_that_onnx_runtime_does_not_know(in_parts: ExportedModel, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(in_parts.path, folder)
    other_opset(folder)
    with pytest.raises(CheckpointError) as caught:
        open_session(folder / "part_0" / "model.onnx")
    assert "cannot load this graph of" in str(caught.value)
    assert "operator set 99" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"parts": 0}, ["parts is 0", "1 to 2"]),
        ({"parts": 3}, ["parts is 3", "2 layers"]),
        ({"precision": "int8"}, ["'int8'", "fp32 or fp16"]),
        ({"opset": 17}, ["opset is 17", "18 to 23"]),
        ({"opset": 99}, ["opset is 99", "18 to 23"]),
    ],
)
def test_requests_that_cannot_be_exported(settings: dict[str, Any], words: list[str], source: Path, tmp_path: Path) -> None:
    with refused(words):
        export(source, tmp_path / "graph", **settings)
    assert not (tmp_path / "graph").exists()


def test_an_existing_folder_is_kept(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    with refused([str(tmp_path), "exists"]):
        export(source, tmp_path)
    assert (tmp_path / "mine").read_text() == "text"


def test_settings_of_a_session(in_parts: ExportedModel) -> None:
    with refused(["'most'", "none, basic, extended, all"]):
        open_session(in_parts.parts[0].path, SessionSettings(level="most"))
    with refused(["'npu'", "cpu, cuda, tensorrt"]):
        open_session(in_parts.parts[0].path, SessionSettings(provider="npu"))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_here(provider: str, in_parts: ExportedModel) -> None:
    import onnxruntime

    from labkit.graphs.session import PROVIDERS

    if PROVIDERS[provider] in onnxruntime.get_available_providers():
        pytest.skip("not measured here: this ONNX Runtime has the provider")
    with pytest.raises(NotAvailable, match="not measured here: this ONNX Runtime has no"):
        open_session(in_parts.parts[0].path, SessionSettings(provider=provider))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime", "onnx_ir"])
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(NotAvailable, match=f"the package {package} is not installed; labkit's extra 'graphs' installs it"):
        packages.graph_package(package)
