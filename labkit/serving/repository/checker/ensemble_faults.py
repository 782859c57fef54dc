"""Finds faults of an ensemble, such as a step whose model does not exist or does not get its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from labkit.serving.nearest_name import nearest, one_of
from labkit.serving.repository.checker.ensemble_wires import entries, wire_faults
from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt import Node


def ensemble_faults(config: Node, others: Mapping[str, Node] | None) -> Iterator[Fault]:
    """All faults of an ensemble.

    others: the models of the repository by name; None if they are not known. Then the steps are not compared with their models.
    """
    steps = [step for scheduling in config.all("ensemble_scheduling") for step in scheduling.all("step")]
    if not steps:
        blemished = any(scheduling.blemished() for scheduling in config.all("ensemble_scheduling"))
        if "ensemble_scheduling" not in config.refused and not blemished:
            line = config.line_of("ensemble_scheduling")
            yield Fault(line, "the ensemble has no step", "write ensemble_scheduling { step [ ... ] }")
        return
    for step in steps:
        yield from _step(config, step, others)
    yield from wire_faults(config, steps, others or {})


def _step(config: Node, step: Node, others: Mapping[str, Node] | None) -> Iterator[Fault]:
    name = step.value("model_name", "")
    if not name:
        if "model_name" not in step.refused:
            yield Fault(step.line, "a step has no model_name", 'write model_name: "..."')
        return
    yield from _version(step, name)
    for map_name in ("input_map", "output_map"):
        yield from _entries(step, name, map_name)
    if others is None:
        return
    model = others.get(name)
    if name == config.value("name"):
        yield Fault(step.line_of("model_name"), f"the ensemble {name} is one of its own steps", "write another model's name")
        return
    if model is None:
        yield Fault(step.line_of("model_name"), f"there is no model {name} in the repository", one_of(name, others))
        return
    yield from _keys(step, name, model)
    yield from _batch(config, step, name, model)


def _version(step: Node, name: str) -> Iterator[Fault]:
    if step.lacks("model_version") or step.value("model_version") == 0:
        yield Fault(
            step.line_of("model_version"),
            f"the step of {name} has no model_version, which the server reads as version 0",
            "write model_version: -1 for the newest",
        )


def _entries(step: Node, name: str, map_name: str) -> Iterator[Fault]:
    if step.lacks(map_name):
        yield Fault(step.line, f"the step of {name} has no {map_name}", f'write {map_name} {{ key: "..." value: "..." }}')
    seen: dict[str, int] = {}
    for entry in entries(step, map_name):
        if not entry.key or not entry.wire:
            lacking = "value" if entry.key else "key"
            yield Fault(entry.line, f"an {map_name} of {name} has no {lacking}", f'write {lacking}: "..."')
        elif entry.key in seen:
            yield Fault(
                entry.line,
                f"{map_name} has the key {entry.key} already, in line {seen[entry.key]}, and only the last entry counts",
                "keep one of them",
            )
        seen[entry.key] = entry.line


def _keys(step: Node, name: str, model: Node) -> Iterator[Fault]:
    for map_name, kind in (("input_map", "input"), ("output_map", "output")):
        known = [tensor.value("name", "") for tensor in model.all(kind)]
        for entry in entries(step, map_name):
            if entry.key and entry.key not in known:
                yield Fault(entry.line, f"{name} has no {kind} {entry.key}", one_of(entry.key, known))
    if step.blemished():
        return
    mapped = {entry.key for entry in entries(step, "input_map")}
    misspelt = {nearest(key, [tensor.value("name", "") for tensor in model.all("input")]) for key in mapped}
    for tensor in model.all("input"):
        missing = tensor.value("name", "")
        if missing and missing not in mapped | misspelt and not tensor.value("optional", False):
            yield Fault(
                step.line_of("model_name"),
                f"{name} needs its input {missing}, but no input_map has this input",
                f'write input_map {{ key: "{missing}" value: "..." }}',
            )


def _batch(config: Node, step: Node, name: str, model: Node) -> Iterator[Fault]:
    ensemble, models = config.value("max_batch_size", 0), model.value("max_batch_size", 0)
    if 0 < models < ensemble:
        yield Fault(
            config.line_of("max_batch_size"),
            f"max_batch_size is {ensemble}, but the max_batch_size of the step {name} is {models}",
            f"write max_batch_size: {models}, or raise the max_batch_size of {name}",
        )
