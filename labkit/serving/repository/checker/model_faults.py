"""Finds faults of a model's name, backend, batching, instances and parameters, without knowing the model's code."""

from __future__ import annotations

from collections.abc import Iterator

from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt import Node

FOR_ENSEMBLE = 'write platform: "ensemble" and no backend'


def is_ensemble(config: Node) -> bool:
    """Whether the model is an ensemble of other models."""
    return bool(config.value("platform") == "ensemble" or config.all("ensemble_scheduling"))


def model_faults(config: Node, folder: str | None, gpus: int | None) -> Iterator[Fault]:
    """All faults that can be found without knowing the model's code.

    folder: name of the model's folder; None if unknown. gpus: the number of GPUs of the server's machine; None if unknown.
    """
    yield from _name(config, folder)
    yield from _backend(config)
    yield from _max_batch_size(config)
    yield from _dynamic_batching(config)
    yield from _instances(config, gpus)
    yield from _parameters(config)


def _name(config: Node, folder: str | None) -> Iterator[Fault]:
    name = config.value("name")
    if name and folder is not None and name != folder:
        line = config.line_of("name")
        yield Fault(
            line,
            f"the model's name is {name}, but its folder's name is {folder}",
            f'write name: "{folder}" or rename the folder',
        )


def _backend(config: Node) -> Iterator[Fault]:
    backend, platform = config.value("backend"), config.value("platform")
    if is_ensemble(config):
        if platform != "ensemble" and "platform" not in config.refused:
            yield Fault(
                config.line_of("ensemble_scheduling"),
                "ensemble_scheduling is given, but the platform is not ensemble",
                FOR_ENSEMBLE,
            )
        if backend:
            yield Fault(config.line_of("backend"), f"an ensemble has no backend, and {backend} is given", FOR_ENSEMBLE)
    elif backend == "ensemble":
        yield Fault(config.line_of("backend"), "ensemble is not a backend", FOR_ENSEMBLE)
    elif platform == "python" and not backend:
        yield Fault(config.line_of("platform"), "python is not a platform", 'write backend: "python"')
    elif config.lacks("backend") and config.lacks("platform"):
        yield Fault(config.line, "neither backend nor platform is given", 'write backend: "python", or platform: "ensemble"')


def _max_batch_size(config: Node) -> Iterator[Fault]:
    if config.value("max_batch_size", 0) < 0:
        yield Fault(
            config.line_of("max_batch_size"),
            f"max_batch_size is {config.value('max_batch_size')}",
            "write 0 for a model without a batch, or the largest batch it takes",
        )


def _dynamic_batching(config: Node) -> Iterator[Fault]:
    largest = config.value("max_batch_size", 0)
    for batching in config.all("dynamic_batching"):
        if largest == 0 and "max_batch_size" not in config.refused:
            yield Fault(
                batching.line,
                "dynamic_batching is given and max_batch_size is 0, so requests are never joined",
                "write a max_batch_size above 0, or take dynamic_batching out",
            )
        for size in batching.scalars.get("preferred_batch_size", []):
            if not 0 < size.content <= largest:
                yield Fault(
                    size.line,
                    f"preferred_batch_size holds {size.content} and max_batch_size is {largest}",
                    "prefer sizes from 1 to max_batch_size",
                )


def _instances(config: Node, gpus: int | None) -> Iterator[Fault]:
    for group in config.all("instance_group"):
        if is_ensemble(config):
            yield Fault(group.line, "an ensemble has no instances of its own", "take instance_group out")
            continue
        if group.value("count", 1) < 1:
            yield Fault(
                group.line_of("count"),
                f"count is {group.value('count')}, which the server reads as 1",
                "write 1 or more; to serve no copy, do not load the model",
            )
        yield from _kind(group, gpus)


def _kind(group: Node, gpus: int | None) -> Iterator[Fault]:
    kind = group.value("kind", "KIND_AUTO")
    if kind == "KIND_GPU" and gpus == 0:
        yield Fault(group.line_of("kind"), "kind is KIND_GPU and the machine has no GPU", "write KIND_CPU")
    if kind in ("KIND_CPU", "KIND_MODEL") and group.contents("gpus"):
        yield Fault(group.line_of("gpus"), f"gpus are given and kind is {kind}", "take gpus out, or write kind: KIND_GPU")


def _parameters(config: Node) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for entry in config.all("parameters"):
        key = entry.value("key", "")
        if key in seen:
            yield Fault(entry.line_of("key"), f"parameter {key} is given already, in line {seen[key]}", "keep one of them")
        seen[key] = entry.line_of("key")
        given = any("string_value" in value.scalars for value in entry.all("value"))
        if not given and not entry.blemished():
            yield Fault(entry.line, f"parameter {key} has no value", 'write value: { string_value: "..." }')
