"""Explains what protobuf refuses in a `config.pbtxt`, and says what protobuf accepts instead."""

from __future__ import annotations

from typing import Any

from labkit.serving.nearest_name import one_of
from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt_tree import Block, Field

OTHER_TYPE_NAMES = {
    "BYTES": "TYPE_STRING",
    "STR": "TYPE_STRING",
    "TEXT": "TYPE_STRING",
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
    "HALF": "TYPE_FP16",
    "BFLOAT16": "TYPE_BF16",
    "FLOAT32": "TYPE_FP32",
    "FLOAT64": "TYPE_FP64",
    "DOUBLE": "TYPE_FP64",
    "INT": "TYPE_INT32",
    "LONG": "TYPE_INT64",
    "UINT": "TYPE_UINT32",
}
"""Triton's data types, by the names that clients, numpy and PyTorch use."""


def refused(line: int, path: list[tuple[Block, Field]], words: str, descriptor: Any) -> Fault:
    """The fault for a statement that protobuf refuses.

    path: the statements from the outermost to the refused one, each with its block. words: protobuf's message.
    descriptor: protobuf's descriptor of the whole message.
    """
    for _, outer in path[:-1]:
        descriptor = descriptor.fields_by_name[outer.name].message_type
    statement = path[-1][1]
    within = path[-2][1].name if len(path) > 1 else "a model's configuration"
    known = descriptor.fields_by_name.get(statement.name)
    if known is None:
        return Fault(line, f"{within} has no field {statement.name}", one_of(statement.name, descriptor.fields_by_name))
    if "multiple" in words:
        return Fault(line, f"{statement.name} is given twice", "keep one of them")
    if "oneof" in words:
        group = ", ".join(other.name for other in known.containing_oneof.fields)
        return Fault(line, f"{statement.name} is given together with another of {group}", "keep one of them")
    if known.message_type is not None:
        return Fault(line, f"{statement.name} is {statement.value}, which is not a block", f"write {_example(known)}")
    if known.enum_type is not None:
        return Fault(line, f"{statement.name} has no value {statement.value}", _enum_value(statement, known.enum_type))
    return Fault(line, f"protobuf refuses the value of {statement.name} ({words})", _scalar(known))


def _example(known: Any) -> str:
    return f"{known.name} {{ {' '.join(f'{inner.name}: ...' for inner in known.message_type.fields[:1])} }}"


def _enum_value(statement: Field, enum: Any) -> str:
    names = [name for name in enum.values_by_name if name != "TYPE_INVALID"]
    prefix = names[0].split("_")[0] + "_"
    bare = str(statement.value).strip("\"'").upper().removeprefix(prefix).removesuffix("_T")
    meant = OTHER_TYPE_NAMES.get(bare, prefix + bare)
    return f"write {meant}" if meant in names else one_of(meant, names)


def _scalar(known: Any) -> str:
    if known.cpp_type == known.CPPTYPE_STRING:
        return "write a text in quotes"
    if known.cpp_type == known.CPPTYPE_BOOL:
        return "write true or false, without quotes"
    return "write whole numbers without quotes, in range"
