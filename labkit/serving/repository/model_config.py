"""The `config.pbtxt` of a served model: its description, and the text that Triton Inference Server reads.

The format is protobuf's text format of `inference.ModelConfig`, in `model_config.proto` of NVIDIA's
triton-inference-server/common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from textwrap import indent

from labkit.serving.repository.tensors import TensorSpec


@dataclass(frozen=True)
class Instances:
    """How many copies of a model the server starts, and where: `KIND_CPU`, `KIND_GPU`, `KIND_MODEL` or `KIND_AUTO`.

    labkit's models are all `KIND_CPU`, those that compute on GPUs too: they choose their devices themselves, and
    `KIND_GPU` would make the server start a copy of the whole model for each GPU.
    """

    count: int = 1
    kind: str = "KIND_CPU"


@dataclass(frozen=True)
class Batching:
    """How the server joins requests: the batch sizes it would rather send, and how long a request may wait for others."""

    preferred_sizes: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0


@dataclass(frozen=True)
class Step:
    """A step of an ensemble: the model, and which tensor of the ensemble each of its inputs and outputs is."""

    model_name: str
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True)
class ModelConfig:
    """All that the `config.pbtxt` of a model says.

    platform: `backend` or `platform` is given, not both; ensembles have the platform "ensemble".
    max_batch_size: 0 means that the model knows no batch and `dims` are whole shapes; above it, `dims` lack the batch.
    decoupled: whether the model may answer a request with more than one response, which streaming needs.
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
        """Whether the model takes a scalar where clients give dims `[1]`.

        An ensemble hands on what it is given and its steps reshape; the server refuses one that does it first.
        """
        return spec.scalar and self.platform != "ensemble"


def config_text(config: ModelConfig) -> str:
    """The text of the model's `config.pbtxt`, with what each tensor means as a comment."""
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
    """The text as a string of the format: in double quotes, with what must not stand there escaped."""
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
    return _list("instance_group", [_block([f"count: {instances.count}", f"kind: {instances.kind}"])])


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
