"""The answer to exercise 4.1: reference, comparison and known mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab04.config import STAGE_CONFIG, Tensor


def stage_config(name: str, inputs: list[Tensor], outputs: list[Tensor], max_batch_size: int, count: int) -> str:
    """The reference solution of exercise 4.1."""
    return _text(name, inputs, outputs, max_batch_size, f"count: {count} kind: KIND_CPU")


def _text(
    name: str,
    inputs: list[Tensor],
    outputs: list[Tensor],
    max_batch_size: int,
    group: str,
    *,
    backend: str = 'backend: "python"',
    kind: str = "TYPE_",
    first: int = 1,
    missing: str = "",
    size: Callable[[int], int] = lambda size: size,
) -> str:
    lines = [f'name: "{name}"', backend, f"max_batch_size: {max_batch_size}"]
    for label, tensors in (("input", inputs), ("output", outputs)):
        for tensor, data_type, shape in tensors if label != missing else []:
            dims = ", ".join("-1" if one == "batch" else str(size(one)) for one in shape[first:])
            lines.append(f'{label} {{ name: "{tensor}" data_type: {kind}{data_type} dims: [ {dims} ] }}')
    return "\n".join([*lines, *([f"instance_group {{ {group} }}"] if group else [])])


def _batch_in_dims(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, f"count: {count} kind: KIND_CPU", first=0)


def _no_batch(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, 0, f"count: {count} kind: KIND_CPU")


def _no_batch_in_dims(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, 0, f"count: {count} kind: KIND_CPU", first=0)


def _no_type(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, f"count: {count} kind: KIND_CPU", kind="")


def _one_name(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return stage_config("preprocessing", inputs, outputs, max_batch_size, count)


def _one_copy(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, "kind: KIND_CPU")


def _no_group(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, "")


def _on_gpu(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, f"count: {count} kind: KIND_GPU")


def _no_kind(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, f"count: {count}")


def _platform(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, f"count: {count} kind: KIND_CPU", backend='platform: "python"')


def _no_outputs(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, f"count: {count} kind: KIND_CPU", missing="output")


def _any_size(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    return _text(name, inputs, outputs, max_batch_size, f"count: {count} kind: KIND_CPU", size=lambda size: -1)


def _explain(case: Case, found: Any, right: Any) -> str:
    if found["fault"]:
        return f"{found['fault']}."
    for name, value in right["says"].items():
        given = found["says"][name]
        if isinstance(value, dict) and set(given) != set(value):
            return f"Your {name} are {', '.join(given) or 'none'}; write {', '.join(value)}."
        for tensor in value if isinstance(value, dict) else ():
            if given[tensor] != value[tensor]:
                return f"Your {tensor} is {given[tensor][0]} {given[tensor][1]}; write {value[tensor][0]} {value[tensor][1]}."
        if given != value:
            return f"The {name} is {given} in your text; write {value}."
    return ""


STAGE_CONFIG_ANSWER = Answer(
    exercise=STAGE_CONFIG,
    reference=stage_config,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "Your dims contain the batch. With a max_batch_size the server adds the batch, so it would be there twice: leave "
            "it out.",
            _batch_in_dims,
        ),
        Mistake(
            "Your max_batch_size is 0, so the server expects no batch dimension before dims: write the given size.",
            _no_batch,
        ),
        Mistake(
            "With max_batch_size 0 and the batch in dims, the server never joins requests: write the given size, and leave "
            "the batch out of dims.",
            _no_batch_in_dims,
        ),
        Mistake(
            "In a config.pbtxt the data types are TYPE_UINT32, TYPE_STRING and so on: write TYPE_ before the given data type.",
            _no_type,
        ),
        Mistake("All your models have the name preprocessing: write the given name.", _one_name),
        Mistake("Your instance_group has no count, so there is only one copy: write count.", _one_copy),
        Mistake("Your text has no instance_group: write one with the number of copies and their kind.", _no_group),
        Mistake("KIND_GPU puts a copy on each GPU, but a stage that handles text needs no GPU: write KIND_CPU.", _on_gpu),
        Mistake(
            "Your instance_group has no kind, so the server uses a GPU if there is one: write kind: KIND_CPU.",
            _no_kind,
        ),
        Mistake("python is a backend, but you wrote it as a platform, which is for ensembles.", _platform),
        Mistake("Your text has no outputs: write a block output { ... } for each output.", _no_outputs),
        Mistake("All your sizes are -1, so the server accepts any size: write the given sizes.", _any_size),
    ),
)

ANSWERS = (STAGE_CONFIG_ANSWER,)
