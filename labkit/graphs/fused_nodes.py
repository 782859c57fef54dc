"""Compares an optimised graph with the original graph, and finds the nodes that were fused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fusion:
    """A kind of fusion. kind: the new operator. replaced: the old operators, in order. count: how often the fusion occurs."""

    kind: str
    replaced: tuple[str, ...]
    count: int


def operators(graph: Any) -> Counter[str]:
    """How many nodes of each operator an `onnx.ModelProto` has."""
    return Counter(node.op_type for node in graph.graph.node)


def fusions(before: Any, after: Any) -> list[Fusion]:
    """The fusions that turn the graph `before` into the graph `after`. Fusions of many nodes come first.

    Both are an `onnx.ModelProto` of the same model. A runtime does not rename the tensors that remain. So a node of the new
    graph replaces all nodes of the old graph between the node's inputs and its outputs.
    """
    producers = {name: node for node in before.graph.node for name in node.output if name}
    order = {id(node): place for place, node in enumerate(before.graph.node)}
    kept = {name for node in after.graph.node for name in node.output if name}
    weights = {tensor.name for tensor in before.graph.initializer} | {value.name for value in before.graph.input}
    found: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for node in after.graph.node:
        replaced = _between(node, producers, kept, weights)
        if len(replaced) > 1:
            names = tuple(each.op_type for each in sorted(replaced, key=lambda each: order[id(each)]))
            found[node.op_type, names] += 1
    fused = [Fusion(kind, names, count) for (kind, names), count in found.items()]
    return sorted(fused, key=lambda one: (-len(one.replaced), one.kind))


def _between(node: Any, producers: dict[str, Any], kept: set[str], weights: set[str]) -> list[Any]:
    """The nodes of the old graph that compute the outputs of a new node from tensors that exist in both graphs."""
    inside: dict[int, Any] = {}
    waiting = [name for name in node.output if name in producers]
    while waiting:
        name = waiting.pop()
        producer = producers[name]
        if id(producer) in inside:
            continue
        inside[id(producer)] = producer
        waiting += [one for one in _inner(producer.input, kept, weights) if one in producers]
    return list(inside.values())


def _inner(names: Iterable[str], kept: set[str], weights: set[str]) -> list[str]:
    return [name for name in names if name and name not in kept and name not in weights]
