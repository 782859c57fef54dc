"""Finds faults of an ensemble's wires, the tensors between its steps: unconnected ends, different shapes, cycles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from labkit.serving.nearest_name import nearest
from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt import Node
from labkit.serving.repository.checker.tensor_faults import dims_text

CLIENT = "the ensemble"
"""Stands for the client, which sends the ensemble's inputs and receives its outputs."""


@dataclass(frozen=True)
class End:
    """One end of a wire: a tensor of a model.

    model: the model's name, or `CLIENT` for the ensemble's own inputs and outputs. owner: the tensor in words. line: the line
    that connects the tensor. dims: the tensor's dims, without the batch. dtype: None if nothing is known about the tensor.
    """

    model: str
    owner: str
    line: int
    dtype: str | None = None
    dims: tuple[int, ...] = ()
    batched: bool = False
    optional: bool = False

    @property
    def whole(self) -> tuple[int, ...]:
        """The dims of the tensor. If there is a batch dimension, it comes first."""
        return (-1, *self.dims) if self.batched else self.dims


@dataclass(frozen=True)
class Mapped:
    """An entry of an input_map or output_map: `key` is the model's tensor, `wire` is the ensemble's tensor."""

    key: str
    wire: str
    line: int


Ends = dict[str, list[End]]


def wire_faults(config: Node, steps: list[Node], others: Mapping[str, Node]) -> Iterator[Fault]:
    """All faults of wires. Types and dims are checked only for steps whose models are among `others`."""
    makers, readers = _ends(config, steps, others)
    yield from _dangling(makers, readers)
    yield from _made_twice(makers)
    yield from _clashes(makers, readers, config.value("max_batch_size", 0) > 0)
    yield from _circle(steps, {tensor.value("name") for tensor in config.all("input")})


def entries(step: Node, map_name: str) -> list[Mapped]:
    """The entries of an input_map or output_map."""
    return [
        Mapped(entry.value("key", ""), entry.value("value", ""), entry.line_of("value"))
        for entry in step.all(map_name)
        if not entry.refused
    ]


def _ends(config: Node, steps: list[Node], others: Mapping[str, Node]) -> tuple[Ends, Ends]:
    """For every wire, the tensors that are written to it and the tensors that are read from it."""
    makers: Ends = {}
    readers: Ends = {}
    for ends, kind in ((makers, "input"), (readers, "output")):
        for tensor in config.all(kind):
            reshaped = [reshape.contents("shape") for reshape in tensor.all("reshape")]
            end = _end(CLIENT, kind, tensor.line_of("name"), config, tensor, *reshaped)
            _add(ends, tensor.value("name", ""), end)
    for step in steps:
        name = step.value("model_name", "")
        model = others.get(name, Node(1))
        for ends, map_name, kind in ((readers, "input_map", "input"), (makers, "output_map", "output")):
            tensors = {tensor.value("name"): tensor for tensor in model.all(kind)}
            for entry in entries(step, map_name):
                _add(ends, entry.wire, _end(name, f"{kind} {entry.key}", entry.line, model, tensors.get(entry.key)))
    return makers, readers


def _add(ends: Ends, wire: str, end: End) -> None:
    if wire:
        ends.setdefault(wire, []).append(end)


def _end(name: str, called: str, line: int, model: Node, tensor: Node | None, reshaped: list[int] | None = None) -> End:
    owner = f"{name}'s {called}"
    if tensor is None or tensor.lacks("dims") or tensor.lacks("data_type"):
        return End(name, owner, line)
    dims = tuple(tensor.contents("dims") if reshaped is None else reshaped)
    batched = model.value("max_batch_size", 0) > 0
    return End(name, owner, line, tensor.value("data_type"), dims, batched, tensor.value("optional", False))


def _dangling(makers: Ends, readers: Ends) -> Iterator[Fault]:
    unmade = [wire for wire in readers if wire not in makers]
    for wire in unmade:
        near = nearest(wire, makers)
        do = f"write {near}" if near else f"map an output to it, or write one of {', '.join(makers)}"
        for end in readers[wire]:
            yield Fault(end.line, f"{wire}, for {end.owner}, is neither an output of a step nor an input of the ensemble", do)
    for wire in [wire for wire in makers if wire not in readers]:
        near = nearest(wire, unmade)
        do = f"write {near}" if near else "take it out, or map an input to it"
        for end in makers[wire]:
            yield Fault(end.line, f"nobody reads {wire}, which is {end.owner}", do)


def _made_twice(makers: Ends) -> Iterator[Fault]:
    for wire, ends in makers.items():
        for end in ends[1:]:
            yield Fault(end.line, f"{wire} is made twice, here and in line {ends[0].line}", "give one of them another name")


def _clashes(makers: Ends, readers: Ends, batched: bool) -> Iterator[Fault]:
    mixed: set[tuple[str, str]] = set()
    for wire, ends in readers.items():
        for maker in makers.get(wire, [])[:1]:
            for reader in ends:
                if maker.dtype is None or reader.dtype is None:
                    continue
                yield from _types(wire, maker, reader)
                if maker.batched == reader.batched:
                    yield from _shapes(wire, maker, reader)
                elif (maker.model, reader.model) not in mixed and not _fit_mixed(maker, reader, batched):
                    mixed.add((maker.model, reader.model))
                    yield _mixed(wire, maker, reader)


def _types(wire: str, maker: End, reader: End) -> Iterator[Fault]:
    if maker.dtype != reader.dtype:
        what = f"{wire} is {maker.dtype} as {maker.owner}, but {reader.dtype} as {reader.owner}"
        yield Fault(reader.line, what, "make both the same type")
    if maker.optional and not reader.optional and reader.model != CLIENT:
        yield Fault(
            reader.line,
            f"{wire} is optional as {maker.owner}, but {reader.owner} is not optional",
            "take optional out of the ensemble's input, or write it in the step's model too",
        )


def _shapes(wire: str, maker: End, reader: End) -> Iterator[Fault]:
    if not _fit(maker.dims, reader.dims):
        made, read = dims_text(list(maker.dims)), dims_text(list(reader.dims))
        what = f"{wire} is {made} as {maker.owner}, but {read} as {reader.owner}"
        yield Fault(reader.line, what, "make both dims the same, -1 where sizes vary")


def _fit_mixed(maker: End, reader: End, batched: bool) -> bool:
    """Whether a model with a batch dimension and a model without a batch dimension fit together.

    The server adds or removes a batch dimension of size 1.
    """
    return _fit(maker.whole, reader.whole) or (not batched and _fit(maker.dims, reader.dims))


def _mixed(wire: str, maker: End, reader: End) -> Fault:
    made, read = dims_text(list(maker.whole)), dims_text(list(reader.whole))
    with_batch, without = (maker, reader) if maker.batched else (reader, maker)
    passes = "only a batch of one passes" if _fit(maker.dims, reader.dims) else "nothing passes"
    return Fault(
        reader.line,
        f"{with_batch.model} takes batches and {without.model} does not, so that {passes}: "
        f"{wire} is {made} as {maker.owner}, but {read} as {reader.owner}",
        "write max_batch_size above 0 in both, or 0 in both",
    )


def _fit(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _circle(steps: list[Node], given: set[str]) -> Iterator[Fault]:
    """Yield a fault if steps wait for one another: these steps remain when all other steps have run."""
    made_by = {entry.wire: number for number, step in enumerate(steps) for entry in entries(step, "output_map")}
    made_by = {wire: number for wire, number in made_by.items() if wire not in given}
    waits = {
        number: {made_by[entry.wire] for entry in entries(step, "input_map") if entry.wire in made_by}
        for number, step in enumerate(steps)
    }
    while ready := [number for number, others in waits.items() if not others & waits.keys()]:
        for number in ready:
            del waits[number]
    needed = {number: others & waits.keys() for number, others in waits.items()}
    while idle := [number for number in needed if not any(number in others for others in needed.values())]:
        for number in idle:
            del needed[number]
    if needed:
        names = " and ".join(steps[number].value("model_name", "") for number in needed)
        what = f"the step of {names} waits for itself" if len(needed) == 1 else f"steps wait for one another: {names}"
        first = steps[min(needed)]
        yield Fault(first.line_of("model_name"), what, "map one of their inputs to another tensor")
