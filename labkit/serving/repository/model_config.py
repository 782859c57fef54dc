"""Describes a served model, and writes the description as the `config.pbtxt` that Triton Inference Server reads.

A `config.pbtxt` is the message `inference.ModelConfig` in protobuf's text format. The message is defined in
`model_config.proto` of NVIDIA's triton-inference-server/common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from textwrap import indent

from labkit.serving.repository.tensors import TensorSpec


@dataclass(frozen=True)
class Instances:
    """How many copies of a model the server starts.

    kind: where the copies run: `KIND_CPU`, `KIND_GPU`, `KIND_MODEL` or `KIND_AUTO`. All of labkit's models use `KIND_CPU`,
    even those that compute on GPUs, because they choose their devices themselves. With `KIND_GPU` the server would start
    one copy of the whole model per GPU. gpus: the numbers of the GPUs on which copies of a `KIND_GPU` model run, `count` on
    each; all GPUs if empty.
    """

    count: int = 1
    kind: str = "KIND_CPU"
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batching:
    """How the server combines requests into batches: the preferred batch sizes, and how long a request may wait for others."""

    preferred_sizes: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0


@dataclass(frozen=True)
class Step:
    """A step of an ensemble: its model, and the name of the ensemble's tensor for each input and output of the model."""

    model_name: str
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True)
class ModelConfig:
    """The content of a model's `config.pbtxt`.

    meaning: one sentence about the model, written as a comment. backend, platform: exactly one of these two is given; the
    platform of an ensemble is "ensemble". max_batch_size: 0 if the model has no batch dimension; otherwise the `dims` of
    tensors do not include the batch. decoupled: whether the model may send several responses for one request, as streaming
    does.
    """

    name: str
    meaning: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    backend: str = ""
    platform: str = ""
    decoupled: bool = False
    instances: Instances | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    batching: Batching | None = None

    def reshapes(self, spec: TensorSpec) -> bool:
        """Whether the server reshapes a tensor from dims `[1]` to a scalar for the model.

        An ensemble passes tensors on unchanged; its steps reshape them. The server refuses an ensemble that reshapes tensors.
        """
        return spec.scalar and self.platform != "ensemble"


def config_text(config: ModelConfig) -> str:
    """The text of the model's `config.pbtxt`, with the meaning of each tensor as a comment."""
    parts = [
        f"# {config.meaning}",
        f"name: {quoted(config.name)}",
        *([f"backend: {quoted(config.backend)}"] if config.backend else []),
        *([f"platform: {quoted(config.platform)}"] if config.platform else []),
        f"max_batch_size: {config.max_batch_size}",
        *(["model_transaction_policy {\n  decoupled: true\n}"] if config.decoupled else []),
        *([_batching(config.batching)] if config.batching else []),
        _list("input", [_tensor(spec, config) for spec in config.inputs]),
        _list("output", [_tensor(spec, config) for spec in config.outputs]),
        *([_instances(config.instances)] if config.instances else []),
        *(_parameter(key, value) for key, value in config.parameters.items()),
        *([_steps(config.steps)] if config.steps else []),
    ]
    return "\n".join(parts) + "\n"


def quoted(text: str) -> str:
    """A text as a string literal of protobuf's text format: in double quotes, with special characters escaped."""
    escaped = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
    return '"' + "".join(escaped.get(letter, letter) for letter in text) + '"'


def _block(lines: Iterable[str]) -> str:
    return "{\n" + indent("\n".join(lines), "  ") + "\n}"


def _list(name: str, blocks: Iterable[str]) -> str:
    return f"{name} [\n" + indent(",\n".join(blocks), "  ") + "\n]"


def _numbers(numbers: Iterable[int]) -> str:
    return "[ " + "".join(f"{number}, " for number in numbers).removesuffix(", ") + " ]"


def _tensor(spec: TensorSpec, config: ModelConfig) -> str:
    return _block(
        [
            f"# {spec.meaning}",
            f"name: {quoted(spec.name)}",
            f"data_type: TYPE_{spec.dtype}",
            f"dims: {_numbers(spec.dims)}",
            *(["reshape: { shape: [ ] }"] if config.reshapes(spec) else []),
            *(["optional: true"] if spec.optional else []),
        ]
    )


def _instances(instances: Instances) -> str:
    gpus = [f"gpus: {_numbers(instances.gpus)}"] if instances.gpus else []
    return _list("instance_group", [_block([f"count: {instances.count}", f"kind: {instances.kind}", *gpus])])


def _batching(batching: Batching) -> str:
    sizes = [f"preferred_batch_size: {_numbers(batching.preferred_sizes)}"] if batching.preferred_sizes else []
    return "dynamic_batching " + _block([*sizes, f"max_queue_delay_microseconds: {batching.max_queue_delay_microseconds}"])


def _parameter(key: str, value: str) -> str:
    return "parameters " + _block([f"key: {quoted(key)}", f"value: {{ string_value: {quoted(value)} }}"])


def _steps(steps: Iterable[Step]) -> str:
    return "ensemble_scheduling " + _block([_list("step", map(_step, steps))])


def _step(step: Step) -> str:
    return _block(
        [
            f"model_name: {quoted(step.model_name)}",
            "model_version: -1",
            *(_wire("input_map", *names) for names in step.input_map.items()),
            *(_wire("output_map", *names) for names in step.output_map.items()),
        ]
    )


def _wire(name: str, of_model: str, of_ensemble: str) -> str:
    return f"{name} {{ key: {quoted(of_model)} value: {quoted(of_ensemble)} }}"
