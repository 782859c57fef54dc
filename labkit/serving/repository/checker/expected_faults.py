"""Finds differences between a `config.pbtxt` and what the code of a known model needs."""

from __future__ import annotations

from collections.abc import Iterator

from labkit.plurals import counted
from labkit.serving.nearest_name import nearest
from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt import Node
from labkit.serving.repository.checker.tensor_faults import dims_text
from labkit.serving.repository.model_config import ModelConfig
from labkit.serving.repository.tensors import TensorSpec


def expected_faults(config: Node, expected: ModelConfig, gpus: int | None) -> Iterator[Fault]:
    """Yield faults: missing, unknown, misspelt or wrong tensors, a wrong batch size, streaming mode, backend or copy count.

    gpus: the number of GPUs of the server's machine; None if unknown.
    """
    yield from _batch(config, expected)
    yield from _decoupled(config, expected)
    yield from _backend(config, expected)
    yield from _kinds(config, expected)
    yield from _copies(config, expected, gpus or 0)
    for kind, specs in (("input", expected.inputs), ("output", expected.outputs)):
        yield from _names(config, kind, specs)
        by_name = {spec.name: spec for spec in specs}
        for tensor in config.all(kind):
            if (spec := by_name.get(tensor.value("name", ""))) is not None:
                yield from _tensor(f"{kind} {spec.name}", tensor, spec, expected, config.value("max_batch_size", 0) > 0)


def _batch(config: Node, expected: ModelConfig) -> Iterator[Fault]:
    given, line = config.value("max_batch_size", 0), config.line_of("max_batch_size")
    if "max_batch_size" in config.refused or given < 0:
        return
    if given == 0 and expected.max_batch_size > 0:
        what = "max_batch_size is not given, which means 0" if config.lacks("max_batch_size") else "max_batch_size is 0"
        yield Fault(
            line,
            f"{what}, and {expected.name} takes batches: the batch is the first dimension of its tensors",
            f"write max_batch_size: {expected.max_batch_size}, or another number above 0",
        )
    if given > 0 and expected.max_batch_size == 0:
        yield Fault(line, f"max_batch_size is {given}, and {expected.name} takes no batches", "write max_batch_size: 0")


def _decoupled(config: Node, expected: ModelConfig) -> Iterator[Fault]:
    policies = config.all("model_transaction_policy")
    given = any(policy.value("decoupled", False) for policy in policies)
    line = policies[0].line_of("decoupled") if policies else config.line
    refused = "model_transaction_policy" in config.refused or any(policy.blemished() for policy in policies)
    if expected.decoupled and not given and not refused:
        yield Fault(
            line,
            f"{expected.name} streams, and without decoupled it may answer a request only once",
            "write model_transaction_policy { decoupled: true }",
        )
    if given and not expected.decoupled:
        yield Fault(line, f"decoupled is true, and {expected.name} answers once", "take model_transaction_policy out")


def _backend(config: Node, expected: ModelConfig) -> Iterator[Fault]:
    given = config.value("backend")
    if given and expected.backend and given != expected.backend:
        yield Fault(
            config.line_of("backend"),
            f"backend is {given}, and the code of {expected.name} is for {expected.backend}",
            f'write backend: "{expected.backend}"',
        )


def _kinds(config: Node, expected: ModelConfig) -> Iterator[Fault]:
    if expected.instances is None:
        return
    for group in config.all("instance_group"):
        if group.value("kind") == "KIND_MODEL":
            yield Fault(
                group.line_of("kind"),
                f"kind is KIND_MODEL, but {expected.name} does not ask the server for devices: it chooses them itself",
                f"write kind: {expected.instances.kind}",
            )


def _copies(config: Node, expected: ModelConfig, gpus: int) -> Iterator[Fault]:
    """Yield faults for instance groups whose kind is GPU, explicitly or by default.

    For such a group, the server would start one copy of the model per GPU.
    """
    if expected.instances is None or gpus < 2 or "instance_group" in config.refused:
        return
    groups = config.all("instance_group")
    for group in groups or [config]:
        if group.value("kind", "KIND_AUTO") in ("KIND_GPU", "KIND_AUTO") and not group.contents("gpus"):
            given = f"kind is {group.value('kind', 'not given')}" if groups else "instance_group is not given"
            yield Fault(
                group.line_of("kind"),
                f"{given}, so that the server starts a copy for each of {counted(gpus, 'GPU')}",
                f"write instance_group [ {{ count: 1 kind: {expected.instances.kind} }} ]; {expected.name} chooses its devices",
            )


def _names(config: Node, kind: str, specs: tuple[TensorSpec, ...]) -> Iterator[Fault]:
    given = [tensor.value("name", "") for tensor in config.all(kind)]
    missing = [spec.name for spec in specs if spec.name not in given]
    for tensor in config.all(kind):
        name = tensor.value("name", "")
        if not name or any(name == spec.name for spec in specs):
            continue
        meant = nearest(name, missing)
        if meant is not None:
            missing.remove(meant)
        do = f"write {meant}" if meant else "take it out" + (f", or write one of {', '.join(missing)}" if missing else "")
        yield Fault(tensor.line_of("name"), f"the model's code knows no {kind} {name}", do)
    nameless = len([name for name in given if not name])
    if kind in config.refused or nameless >= len(missing):
        return
    for name in missing:
        spec = next(spec for spec in specs if spec.name == name)
        if spec.is_new:
            continue
        yield Fault(
            config.line_of(kind),
            f"{kind} {name} is missing",
            f'add {kind} {{ name: "{name}" data_type: TYPE_{spec.dtype} dims: {dims_text(list(spec.dims))} ... }}',
        )


def _tensor(called: str, tensor: Node, spec: TensorSpec, expected: ModelConfig, batched: bool) -> Iterator[Fault]:
    given_type = tensor.value("data_type", "TYPE_INVALID")
    if given_type not in ("TYPE_INVALID", f"TYPE_{spec.dtype}"):
        yield Fault(
            tensor.line_of("data_type"),
            f"{called} is {given_type}, and the model's code has TYPE_{spec.dtype}",
            f"write data_type: TYPE_{spec.dtype}",
        )
    yield from _dims(called, tensor, spec, batched)
    yield from _reshape(called, tensor, expected.reshapes(spec))
    yield from _optional(called, tensor, spec)


def _dims(called: str, tensor: Node, spec: TensorSpec, batched: bool) -> Iterator[Fault]:
    given, wanted = tensor.contents("dims"), list(spec.dims)
    if not given or given == wanted or any(dim < 1 and dim != -1 for dim in given):
        return
    do = f"write dims: {dims_text(wanted)}"
    if batched and given[0] == -1 and given[1:] == wanted:
        what = f"{called} has the batch in its dims {dims_text(given)}, but max_batch_size above 0 adds the batch by itself"
    else:
        what = f"{called} has dims {dims_text(given)}, and the model's code has {dims_text(wanted)}"
    yield Fault(tensor.line_of("dims"), what, do)


def _reshape(called: str, tensor: Node, wanted: bool) -> Iterator[Fault]:
    given = tensor.all("reshape")
    if wanted and tensor.lacks("reshape"):
        yield Fault(
            tensor.line, f"{called} is a scalar for the model's code and is not reshaped", "add reshape: { shape: [ ] }"
        )
    if given and not wanted:
        shape = dims_text(given[0].contents("shape"))
        yield Fault(
            given[0].line,
            f"{called} is reshaped to {shape}, but the model's code does not expect a reshape",
            "take reshape out",
        )
    elif given and given[0].contents("shape"):
        shape = dims_text(given[0].contents("shape"))
        yield Fault(given[0].line, f"{called} is reshaped to {shape}, but it is a scalar", "write reshape: { shape: [ ] }")


def _optional(called: str, tensor: Node, spec: TensorSpec) -> Iterator[Fault]:
    given = tensor.value("optional", False)
    if spec.optional and not given and "optional" not in tensor.refused:
        yield Fault(
            tensor.line_of("optional"),
            f"{called} is not optional, so that the server refuses clients that leave it out",
            "write optional: true",
        )
    if given and not spec.optional:
        yield Fault(tensor.line_of("optional"), f"{called} is optional, but the model's code needs it", "take optional out")
