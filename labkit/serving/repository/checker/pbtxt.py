"""Reads a `config.pbtxt`, and keeps the line number of every value.

Protobuf (`google.protobuf.text_format` with the real `inference.ModelConfig`) decides whether a field is legal, and what its
value is. `pbtxt_tree` finds the lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from labkit.errors import NotAvailable
from labkit.extras import how_to_install
from labkit.serving.nearest_name import nearest
from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt_refusals import refused
from labkit.serving.repository.checker.pbtxt_tree import Block, Field, Lines, Malformed, parse, path_to


@dataclass(frozen=True)
class Value:
    """A scalar (number, text, Boolean, or name of an enum value) and its line."""

    line: int
    content: Any


@dataclass
class Node:
    """A message: the number of the line where it begins, and its fields.

    The fields map each name to its values, which are scalars or inner messages, in the order of the file.

    refused: the names of fields that protobuf refuses or whose values it refuses, and the known names most similar to them. The
    refused fields have been reported already.
    """

    line: int
    scalars: dict[str, list[Value]] = field(default_factory=dict)
    messages: dict[str, list[Node]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def value(self, name: str, default: Any = None) -> Any:
        """The last value of a scalar field, or the default if the field is not given."""
        values = self.scalars.get(name)
        return values[-1].content if values else default

    def contents(self, name: str) -> list[Any]:
        """All values of a repeated scalar field."""
        return [value.content for value in self.scalars.get(name, [])]

    def line_of(self, name: str) -> int:
        """The line where a field is first given, or the line of the message if it is not given."""
        places: list[Value] | list[Node] = self.scalars.get(name) or self.messages.get(name) or []
        return places[0].line if places else self.line

    def all(self, name: str) -> list[Node]:
        """The inner messages with this field name."""
        return self.messages.get(name, [])

    def lacks(self, name: str) -> bool:
        """Whether a field is missing. A refused field is not missing."""
        return name not in self.scalars and name not in self.messages and name not in self.refused

    def blemished(self) -> bool:
        """Whether something in the message was refused, at any depth.

        After a refusal, a field that seems to be missing may just be misspelt.
        """
        return bool(self.refused) or any(node.blemished() for nodes in self.messages.values() for node in nodes)


@dataclass(frozen=True)
class Document:
    """A parsed file: its message without the refused fields, and one fault for each refused field.

    root: None if the text cannot be parsed at all.
    """

    root: Node | None
    faults: list[Fault]


def read(text: str) -> Document:
    """Parse the text of a `config.pbtxt`. Raises `NotAvailable` if the package tritonclient is not installed."""
    message = model_config_class()
    try:
        tree = parse(text)
    except Malformed as error:
        return Document(None, [Fault(error.line, str(error), "correct this line, or a brace or quote before it")])
    faults: list[Fault] = []
    lines = Lines(text)
    while refusal := _refusal(text, message):
        line, column, words = refusal
        path = path_to(tree, lines.offset(line, column))
        if not path:
            return Document(None, [*faults, Fault(line, words, "write it in protobuf's text format")])
        faults.append(refused(line, path, words, message.DESCRIPTOR))
        text = _without(text, *path[-1])
    return Document(_node(tree, message), faults)


def model_config_class() -> Any:
    """Protobuf's class for `inference.ModelConfig`. Raises `NotAvailable` if the package tritonclient is not installed."""
    try:
        from tritonclient.grpc.model_config_pb2 import ModelConfig
    except ImportError as error:
        raise NotAvailable(
            f"reading config.pbtxt needs tritonclient with gRPC ({error}); install it with labkit's extra: "
            f"{how_to_install('serve')}"
        ) from error
    return ModelConfig


def _refusal(text: str, message: Any) -> tuple[int, int, str] | None:
    """The line, column and message of protobuf's first complaint; None if protobuf accepts the text."""
    from google.protobuf import text_format

    try:
        text_format.Parse(text, message())
    except text_format.ParseError as error:
        words = str(error).split(" : ", 1)[-1].rsplit("': ", 1)[-1].strip().rstrip(".")
        return error.GetLine() or 1, error.GetColumn() or 1, words
    return None


def _without(text: str, block: Block, refused: Field) -> str:
    """Replace a statement with blanks, so that all other positions stay the same, and remove it from its block."""
    block.refused.add(refused.name)
    block.fields = [statement for statement in block.fields if statement.start != refused.start]
    blanks = "".join("\n" if letter == "\n" else " " for letter in text[refused.start : refused.end])
    rest = text[refused.end :]
    separator = rest.lstrip()[:1]
    if separator in (",", ";"):
        rest = rest.replace(separator, " ", 1)
    return text[: refused.start] + blanks + rest


def _node(block: Block, message: Any) -> Node:
    """Turn a block into a node, with the values that protobuf reads."""
    fields = message.DESCRIPTOR.fields_by_name
    node = Node(block.line, refused=block.refused | {nearest(name, fields) or name for name in block.refused})
    for statement in block.fields:
        if isinstance(statement.value, Block):
            inner = _message_class(fields[statement.name].message_type)
            node.messages.setdefault(statement.name, []).append(_node(statement.value, inner))
        else:
            value = Value(statement.line, _content(statement.name, statement.value, message))
            node.scalars.setdefault(statement.name, []).append(value)
    return node


def _message_class(descriptor: Any) -> Any:
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(descriptor)


def _content(name: str, written: str, message: Any) -> Any:
    """The value that protobuf reads from a written scalar; for an enum, the name of the value."""
    from google.protobuf import text_format

    read = getattr(text_format.Parse(f"{name}: {written}", message()), name)
    value = read if isinstance(read, bool | int | float | str) else read[0]
    enum = message.DESCRIPTOR.fields_by_name[name].enum_type
    return value if enum is None else enum.values_by_number[value].name
