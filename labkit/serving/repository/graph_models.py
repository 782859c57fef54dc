"""Describes exported parts as Triton models: one model per part, and an ensemble that connects the parts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import InvalidRequest
from labkit.graphs.exported import ExportedModel, ExportedPart
from labkit.graphs.tensors import GraphTensor
from labkit.plurals import counted
from labkit.serving.repository.model_config import Instances, ModelConfig, Step, config_text
from labkit.serving.repository.tensors import TensorSpec
from labkit.serving.repository.writer import MODEL_CODE, make_room

DATA_TYPES = {"int64": "INT64", "float32": "FP32", "float16": "FP16"}
"""Triton's data types for the graphs' tensors, by numpy's names."""

PLATFORMS = ("python", "onnxruntime_onnx", "tensorrt_plan")
"""The platforms that can run a part: ONNX Runtime inside Triton's Python backend, Triton's own ONNX backend, and TensorRT."""

BACKEND_MODULE = "onnx_part"
"""The file in `labkit/serving/python_backend/` that runs a part."""


@dataclass(frozen=True)
class GraphServing:
    """How the parts of an export are served.

    name: the model that clients call. platform: one of `PLATFORMS`. instances: how many copies of each part the server starts.
    threads: threads per copy, for the platform python. level: ONNX Runtime's optimisation level, for the platform python.
    max_batch_size: the most sequences in a request. gpus: for parts on GPUs, the GPU of each part; empty for the CPU.
    """

    name: str = "gptj_graph"
    platform: str = "python"
    instances: int = 1
    threads: int = 1
    level: str = "all"
    max_batch_size: int = 8
    gpus: tuple[int, ...] = ()

    def check(self, parts: int) -> None:
        """Raise `InvalidRequest` if the settings contradict each other, or do not fit an export of `parts` parts."""
        if self.platform not in PLATFORMS:
            raise InvalidRequest(f"platform is {self.platform!r}; {', '.join(PLATFORMS)} are accepted")
        for name in ("instances", "threads", "max_batch_size"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} is {getattr(self, name)}; at least 1 is accepted")
        if self.gpus and len(self.gpus) != parts:
            raise InvalidRequest(f"gpus names {counted(len(self.gpus), 'GPU')} for {counted(parts, 'part')}; name one per part")
        if self.platform == "tensorrt_plan" and not self.gpus:
            raise InvalidRequest("a part of the platform tensorrt_plan runs on a GPU; name the GPU of each part in gpus")
        if self.platform == "python" and self.gpus:
            raise InvalidRequest("parts of the platform python run on the CPU; leave gpus out, or choose onnxruntime_onnx")


def part_name(serving: GraphServing, stage: int, stages: int) -> str:
    """The name of the model of a part. A single part has the name that clients call, and needs no ensemble."""
    return serving.name if stages == 1 else f"{serving.name}_part_{stage}"


def graph_models(exported: ExportedModel, serving: GraphServing) -> dict[str, ModelConfig]:
    """The configurations, by name, of all parts and, if there are several parts, of the ensemble that connects them.

    The client sends token ids and the cache of all layers, and gets logits and the cache with the new tokens added. The hidden
    states stay inside the ensemble. The server keeps no state between requests, so any copy of a part can take any request.
    """
    serving.check(len(exported.parts))
    stages = len(exported.parts)
    parts = {part_name(serving, stage, stages): part for stage, part in enumerate(exported.parts)}
    models = {name: _part_config(exported, part, serving, name, stage) for stage, (name, part) in enumerate(parts.items())}
    if stages == 1:
        return models
    inner = {part.tensors.leaves.name for part in exported.parts[:-1]}
    steps = tuple(
        Step(
            name,
            input_map={spec.name: _wire(spec, inner) for spec in model.inputs},
            output_map={spec.name: _wire(spec, inner) for spec in model.outputs},
        )
        for name, model in models.items()
    )
    ensemble = ModelConfig(
        name=serving.name,
        meaning=f"{exported.model} in {counted(stages, 'part')}, one after another; the hidden state goes from part to part.",
        platform="ensemble",
        max_batch_size=serving.max_batch_size,
        inputs=tuple(spec for model in models.values() for spec in model.inputs if spec.name not in inner),
        outputs=tuple(spec for model in models.values() for spec in model.outputs if spec.name not in inner),
        steps=steps,
    )
    return models | {serving.name: ensemble}


def write_graph_repository(folder: Path, exported: ExportedModel, serving: GraphServing) -> list[str]:
    """Write the repository of an export's parts to `folder`; returns the names of the models.

    For the platform python, graphs and weights stay where they are. For onnxruntime_onnx, graphs and weights are linked into
    the repository, or copied if the repository is on another disk. For tensorrt_plan, `1/model.plan` of each part has to be
    built on the GPU that will run it (`labkit.graphs.tensorrt`). Raises `InvalidRequest` for settings that do not fit, and for
    a folder with other files.
    """
    models = graph_models(exported, serving)
    make_room(folder)
    stages = len(exported.parts)
    for stage, part in enumerate(exported.parts):
        version = folder / part_name(serving, stage, stages) / "1"
        version.mkdir(parents=True)
        if serving.platform == "python":
            (version / "model.py").write_text(MODEL_CODE.format(name=BACKEND_MODULE), "utf-8")
        elif serving.platform == "onnxruntime_onnx":
            for file in (part.path, part.weights):
                _link(file, version / file.name)
    for name, config in models.items():
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
        (folder / name / "config.pbtxt").write_text(config_text(config), "utf-8")
    return list(models)


def _part_config(exported: ExportedModel, part: ExportedPart, serving: GraphServing, name: str, stage: int) -> ModelConfig:
    own = serving.platform == "python"
    parameters = {
        "graph": str(part.path.resolve()),
        "level": serving.level,
        "threads": str(serving.threads),
        "vocab_size": str(exported.config.vocab_size),
        "context_length": str(exported.config.context_length),
    }
    kind = Instances(serving.instances, "KIND_GPU", serving.gpus[stage : stage + 1]) if serving.gpus else None
    return ModelConfig(
        name=name,
        meaning=f"Layers {part.layers.start} to {part.layers.stop - 1} of {exported.model}, as a graph.",
        backend="python" if own else "",
        platform="" if own else serving.platform,
        max_batch_size=serving.max_batch_size,
        inputs=tuple(map(_spec, part.tensors.inputs)),
        outputs=tuple(map(_spec, part.tensors.outputs)),
        instances=kind or Instances(serving.instances),
        parameters=parameters if own else {},
    )


def _spec(tensor: GraphTensor) -> TensorSpec:
    """The description of a graph's tensor for Triton: its dims leave out the batch, and -1 stands for a varying size."""
    dims = tuple(size if isinstance(size, int) else -1 for size in tensor.shape[1:])
    return TensorSpec(tensor.name, DATA_TYPES[tensor.dtype], dims, _meaning(tensor.name))


def _meaning(name: str) -> str:
    forms: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("input_ids", lambda rest: "token ids of the new tokens"),
        ("hidden_", lambda part: f"hidden state that enters part {part}"),
        ("logits", lambda rest: "logits after the last token"),
        ("past_key_values.", lambda rest: f"cached {rest.split('.')[1]} of layer {rest.split('.')[0]}"),
        ("present.", lambda rest: f"{rest.split('.')[1]} of layer {rest.split('.')[0]}, with the new tokens"),
    )
    return next(words(name.removeprefix(begin)) for begin, words in forms if name.startswith(begin))


def _wire(spec: TensorSpec, inner: set[str]) -> str:
    """The name of a model's tensor in the ensemble. A name with a leading underscore is hidden from clients."""
    return f"_{spec.name}" if spec.name in inner else spec.name


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)
