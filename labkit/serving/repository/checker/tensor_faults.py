"""Finds faults of a model's inputs and outputs, without knowing the model's code."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt import Node


def label(kind: str, tensor: Node) -> str:
    """The words by which faults name a tensor: `input QUERY`, or `an input` if it has no name."""
    name = tensor.value("name")
    return f"{kind} {name}" if name else f"an {kind}"


def dims_text(dims: list[int]) -> str:
    """Dims as they are written in a configuration: `[ -1, 2 ]`."""
    return f"[ {', '.join(map(str, dims))} ]" if dims else "[ ]"


def tensor_faults(config: Node, batched: bool) -> Iterator[Fault]:
    """Yield faults for missing or impossible names, data types, dims and reshapes, and for duplicate names.

    batched: whether the model has a batch dimension, or should have one. Only models with a batch dimension can have scalars.
    """
    for kind in ("input", "output"):
        seen: dict[str, int] = {}
        for tensor in config.all(kind):
            yield from _missing(kind, tensor)
            yield from _impossible_dims(kind, tensor)
            yield from _impossible_reshape(kind, tensor, batched)
            name = tensor.value("name", "")
            if name in seen:
                yield Fault(tensor.line_of("name"), f"{kind} {name} is given already, in line {seen[name]}", "keep one of them")
            elif name:
                seen[name] = tensor.line_of("name")


def _missing(kind: str, tensor: Node) -> Iterator[Fault]:
    called = label(kind, tensor)
    if not tensor.value("name") and (tensor.lacks("name") or "name" in tensor.scalars):
        yield Fault(tensor.line, f"{called} has no name", 'write name: "..." as the model\'s code calls it')
    if tensor.lacks("data_type") or tensor.value("data_type") == "TYPE_INVALID":
        yield Fault(
            tensor.line, f"{called} has no data_type", "write data_type: TYPE_... (for example TYPE_FP32 or TYPE_STRING)"
        )
    if tensor.lacks("dims"):
        yield Fault(
            tensor.line,
            f"{called} has no dims",
            "write dims: [ ... ] without the batch, -1 for any size; for a scalar dims: [ 1 ] and reshape: { shape: [ ] }",
        )


def _impossible_dims(kind: str, tensor: Node) -> Iterator[Fault]:
    for dim in tensor.scalars.get("dims", []):
        if dim.content < 1 and dim.content != -1:
            yield Fault(
                dim.line,
                f"{label(kind, tensor)} has {dim.content} in its dims",
                "write the size, 1 or more, or -1 if it may vary",
            )


def _impossible_reshape(kind: str, tensor: Node, batched: bool) -> Iterator[Fault]:
    for reshape in tensor.all("reshape"):
        dims, shape = tensor.contents("dims"), reshape.contents("shape")
        if not shape and not batched:
            yield Fault(
                reshape.line,
                f"{label(kind, tensor)} is reshaped to a scalar, which models without a batch cannot take",
                "leave reshape out, or give the model a max_batch_size above 0",
            )
        elif dims and _fixed(dims) != _fixed(shape):
            yield Fault(
                reshape.line,
                f"{label(kind, tensor)} is reshaped from {dims_text(dims)} to {dims_text(shape)}, with a different size",
                "make the products of both equal, with the same number of -1 in both",
            )


def _fixed(dims: list[int]) -> tuple[int, int]:
    return prod(dim for dim in dims if dim != -1), dims.count(-1)
