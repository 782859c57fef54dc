"""Exercise 4.1: the `config.pbtxt` of a stage. First labkit's checker reads the learner's text, then the server reads it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labkit.errors import NotAvailable
from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab04.on_server import is_own, lab_server, model_code, stage
from labkit.plurals import counted
from labkit.serving.repository.checker.check_config import check_config
from labkit.serving.repository.checker.pbtxt import model_config_class

Tensor = tuple[str, str, list[Any]]
"""The name, the data type and the shape of a tensor; the first entry of the shape is "batch"."""


@dataclass(frozen=True)
class ConfigCase(Case):
    """An input of the exercise. If `loads` is set, the server also loads a model with the text, which takes over a second."""

    loads: bool = False


def run_config(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Call the learner's function. Returns the fault in the returned text or, if the text has no fault, its fields.

    If `case.loads` is set, the server also loads a model with the text.
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

    If the server refuses to load the model, raises an error with the server's message. If no answer arrives, raises
    `NotAvailable`.
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
    run=run_config,
    seconds=60.0,
    ends_at_error=True,
    hints=(
        "First write down the text for the example above. Then replace each part that differs between cases by {...} in an "
        "f-string.",
        'A tensor looks like this: input { name: "QUERY" data_type: TYPE_STRING dims: [ 1 ] }. Such blocks can be repeated. '
        "In an f-string, write {{ for a brace.",
        "dims are shape[1:]. The other fields are name, "
        'backend: "python", max_batch_size: ..., instance_group { count: ... kind: KIND_CPU }.',
    ),
)
