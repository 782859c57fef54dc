"""Exercise 4.1: the `config.pbtxt` of a stage. First labkit's checker reads the text, then the server reads it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labkit.errors import NotAvailable
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab04.on_server import is_own, lab_server, model_code, stage
from labkit.plurals import counted
from labkit.serving.repository.checker.check_config import check_config
from labkit.serving.repository.checker.pbtxt import model_config_class

Tensor = tuple[str, str, list[Any]]
"""The name, the data type and the shape of a tensor; the first entry of the shape is "batch"."""


@dataclass(frozen=True)
class ConfigCase(Case):
    """A case. If `loads` is set, the server must also load a model with this text; this takes more than a second."""

    loads: bool = False


def stage_config(name: str, inputs: list[Tensor], outputs: list[Tensor], max_batch_size: int, count: int) -> str:
    """The reference of exercise 4.1."""
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


def run_config(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The fault in the text. If the text has no fault, the fields of the text.

    If `case.loads` is set, the server also loads the model.
    """
    assert isinstance(case, ConfigCase)
    text = function(*case.args)
    if not isinstance(text, str):
        return {"fault": f"your function returns {text!r:.40}; return the text of a config.pbtxt", "says": {}}
    if faults := check_config(text, gpus=0):
        return {"fault": str(faults[0]), "says": {}}
    config = _parsed(text)
    if case.loads and not is_own(function) and config.name == case.args[0]:
        _load(config.name, text)
    return {"fault": "", "says": _says(config)}


def _parsed(text: str) -> Any:
    from google.protobuf import text_format

    return text_format.Parse(text, model_config_class()())


def _load(name: str, text: str) -> None:
    """Load the model and send it a request.

    If the server refuses, raises an error with the server's message. If no answer comes, raises `NotAvailable`.
    """
    server = lab_server()
    server.load(name, text, model_code("labkit.exercises.stubs.zeros"))
    try:
        if not server.server.probes.answers(name):
            raise NotAvailable(f"the server loads {name}, but does not answer a request to it")
    finally:
        server.unload(name)


def _says(config: Any) -> dict[str, Any]:
    from tritonclient.grpc.model_config_pb2 import DataType, ModelInstanceGroup

    def tensors(given: Any) -> dict[str, Any]:
        return {one.name: [DataType.Name(one.data_type), list(one.dims)] for one in given}

    groups = [[group.count or 1, ModelInstanceGroup.Kind.Name(group.kind)] for group in config.instance_group]
    return {
        "name": config.name,
        "backend": config.backend,
        "max_batch_size": config.max_batch_size,
        "inputs": tensors(config.input),
        "outputs": tensors(config.output),
        "instances (count, kind)": groups or [[1, "KIND_AUTO"]],
    }


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


def _tensors(specs: Any) -> list[Tensor]:
    return [(spec.name, spec.dtype, ["batch", *spec.dims]) for spec in specs]


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases: list[Case] = []
    for kind in ("preprocessing", "postprocessing"):
        config, name = stage(kind), f"{kind}_{draw.randrange(100)}"
        size, count = draw.choice((2, 8, 1024)), draw.choice((2, 3))
        args = (name, _tensors(config.inputs), _tensors(config.outputs), size, count)
        cases.append(ConfigCase(f"{name}, batches up to {size}, {count} copies", args, loads=kind == "preprocessing"))
    for number in range(2):
        name, width = f"stage_{draw.randrange(10_000)}", draw.choice((3, 16, 768))
        inputs: list[Tensor] = [(f"X{number}", "FP32", ["batch", width]), ("MASK", "BOOL", ["batch", 1, -1])]
        outputs: list[Tensor] = [("Y", draw.choice(("INT64", "FP16")), ["batch", width, -1])]
        size = draw.choice((4, 32))
        cases.append(
            ConfigCase(f"{name} of {counted(width, 'number')}, batches up to {size}", (name, inputs, outputs, size, 2 + number))
        )
    return cases


STAGE_CONFIG = Exercise(
    name="lab04.stage_config",
    lab="04",
    number="4.1",
    title="Describe a stage",
    function="stage_config",
    statement=(
        "Return the text of a `config.pbtxt` for a model with the backend `python` that runs in `count` copies on the CPU "
        "(`KIND_CPU`). `inputs` and `outputs` list the model's tensors as `(name, data type, shape)`, for example "
        '`("INPUT_ID", "UINT32", ["batch", -1])`; -1 means any size. With a `max_batch_size`, the server itself puts the batch '
        "before `dims`. labkit checks your text line by line. Then the real server loads it and answers a request."
    ),
    points=10,
    minutes=20,
    difficulty=2,
    requires=("triton_server",),
    cases=_cases,
    reference=stage_config,
    run=run_config,
    seconds=60.0,
    ends_at_error=True,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "Your dims contain the batch. With a max_batch_size the server adds the batch, so your batch would be there "
            "twice: leave it out.",
            _batch_in_dims,
        ),
        Mistake(
            "Your max_batch_size is 0, so the server expects no batch before dims: write the given size.",
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
    hints=(
        "First write down the text for the example above. Then replace each part that differs between cases by {...} in an "
        "f-string.",
        'A tensor looks like this: input { name: "QUERY" data_type: TYPE_STRING dims: [ 1 ] }. Such blocks may be repeated. '
        "In an f-string, write {{ for a brace.",
        "dims are shape[1:]. The other fields are name, "
        'backend: "python", max_batch_size: ..., instance_group { count: ... kind: KIND_CPU }.',
    ),
)
