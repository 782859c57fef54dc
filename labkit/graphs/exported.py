"""Opens an export and checks that all parts exist, belong to one model, and fit together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.checkpoints.split import span
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError, InvalidRequest
from labkit.graphs.packages import graph_package
from labkit.graphs.tensors import FLOATS, GraphTensor, PartTensors, part_tensors
from labkit.json_file import need_text, need_whole, read_json_object

MANIFEST = "export.json"
_HOW = "export the model again with labkit export"


@dataclass(frozen=True)
class ExportedPart:
    """A part: its file, the layers that it holds, and its inputs and outputs."""

    path: Path
    layers: range
    tensors: PartTensors

    @property
    def weights(self) -> Path:
        """The file with the part's weights."""
        return self.path.with_name(f"{self.path.name}.data")

    @property
    def byte_count(self) -> int:
        """The size of the graph and its weights, in bytes."""
        return self.path.stat().st_size + self.weights.stat().st_size


@dataclass(frozen=True)
class ExportedModel:
    """A folder that `export` wrote: the model's name, its config, precision and operator set, and its parts in order."""

    path: Path
    model: str
    config: GPTJConfig
    precision: str
    opset: int
    parts: tuple[ExportedPart, ...]

    @property
    def byte_count(self) -> int:
        """The size of all parts, in bytes."""
        return sum(part.byte_count for part in self.parts)


def open_export(folder: str | Path) -> ExportedModel:
    """Open the folder of an export, and check that each graph has the tensors of its part. Reads no weights.

    Raises `InvalidRequest` if the folder is not an export, and `CheckpointError` if a part is missing or truncated, belongs to
    another model, or does not fit its neighbour. The message names the file.
    """
    path = Path(folder).expanduser()
    if not (path / MANIFEST).is_file():
        raise InvalidRequest(f"{path} has no {MANIFEST}; give a folder that labkit export wrote")
    try:
        about = read_json_object(path / MANIFEST)
        if not isinstance(values := about.get("config"), dict):
            raise ValueError(f"config is {values!r:.60}; the settings of a GPT-J are accepted")
        config = GPTJConfig.from_dict(values)
        model, precision = need_text(about.get("model"), "model", most=4096), about.get("precision")
        if precision not in FLOATS:
            raise ValueError(f"precision is {precision!r:.60}; {' or '.join(FLOATS)} is accepted")
        opset = need_whole(about.get("opset"), "opset", 1, 1000)
        count = need_whole(about.get("parts"), "parts", 1, config.num_layers)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST} is not the description of an export: {error}; {_HOW}") from error
    parts = []
    for stage in range(count):
        layers = span(config.num_layers, stage, count)
        tensors = part_tensors(config, precision, stage, count, layers)
        parts.append(ExportedPart(path / f"part_{stage}" / "model.onnx", layers, tensors))
    for stage, part in enumerate(parts):
        _check_part(part, f"part {stage} of {count}", opset)
    return ExportedModel(path, model, config, str(precision), opset, tuple(parts))


def read_graph(path: Path) -> Any:
    """Read the `onnx.ModelProto` in a file, without its weights.

    Raises `CheckpointError` if the file is missing or is not ONNX, and `NotAvailable` if the package onnx is missing.
    """
    onnx = graph_package("onnx")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {_HOW}")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own exception classes
        raise CheckpointError(f"{path} is not an ONNX graph ({type(error).__name__}); {_HOW}") from error
    if not model.graph.node:
        raise CheckpointError(f"{path} is not an ONNX graph: it has no operation; {_HOW}")
    return model


def opset_of(graph: Any) -> int:
    """The version of ONNX's operator set that a graph needs; 0 if the graph does not name a version."""
    return next((int(each.version) for each in graph.opset_import if each.domain in ("", "ai.onnx")), 0)


def described(value: Any) -> GraphTensor:
    """An `onnx.ValueInfoProto` as a `GraphTensor`."""
    onnx = graph_package("onnx")
    kind = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else "no dtype"
    return GraphTensor(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim))


def _check_part(part: ExportedPart, what: str, opset: int) -> None:
    model = read_graph(part.path)
    found = opset_of(model)
    if found != opset:
        raise CheckpointError(f"{part.path} has operator set {found}, but {MANIFEST} says {opset}; {_HOW}")
    for kind, values, wanted in (
        ("input", model.graph.input, part.tensors.inputs),
        ("output", model.graph.output, part.tensors.outputs),
    ):
        _check_tensors(part.path, what, kind, {value.name: described(value) for value in values}, wanted)
    _check_weights(part, model)


def _check_tensors(path: Path, what: str, kind: str, found: dict[str, GraphTensor], wanted: tuple[GraphTensor, ...]) -> None:
    """Compare the tensors of a file with the expected tensors of its part. The names of dynamic sizes do not matter."""
    for tensor in wanted:
        one = found.get(tensor.name)
        if one is None:
            role = "the seam to its neighbour" if tensor.name.startswith("hidden_") else f"an {kind} of {what}"
            raise CheckpointError(
                f"{path} has no {kind} {tensor.name}, which is {role}; it has {', '.join(list(found)[:3])}, ...: "
                f"another model or another part is in its place; {_HOW}"
            )
        fixed = tuple(size if isinstance(size, int) else None for size in tensor.shape)
        theirs = tuple(size if isinstance(size, int) and size else None for size in one.shape)
        if (one.dtype, theirs) != (tensor.dtype, fixed):
            raise CheckpointError(
                f"{path}: {kind} {tensor.name} is {one.dtype} {_sizes(one)}, but {what} needs {tensor.dtype} "
                f"{_sizes(tensor)}; the file belongs to another model; {_HOW}"
            )
    if more := set(found) - {tensor.name for tensor in wanted}:
        raise CheckpointError(f"{path} has an {kind} {min(more)}, unknown to {what}; another part is in its place; {_HOW}")


def _check_weights(part: ExportedPart, model: Any) -> None:
    """Raise `CheckpointError` if the weights file is missing or shorter than the graph needs."""
    end = 0
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            end = max(end, int(place.get("offset", 0)) + int(place.get("length", 0)))
    size = part.weights.stat().st_size if part.weights.is_file() else None
    if size is None or size < end:
        state = "is missing" if size is None else f"has {size:,} bytes"
        raise CheckpointError(f"{part.weights} {state}, but {part.path.name} needs {end:,} bytes of weights from it; {_HOW}")


def _sizes(tensor: GraphTensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"
