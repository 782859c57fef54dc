"""Pass plain values between processes as JSON and safetensors. Unlike unpickling, reading these formats cannot run code."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

MOST_BITS = 4096
"""Integers with more than `MOST_BITS` bits are not passed on, because Python refuses to write or read so many digits."""


def encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The JSON form of a value. Each tensor is stored in `tensors` under a number, and the JSON form contains only this number.

    Plain values are numbers, strings, booleans, None, tensors, lists, tuples, and dictionaries whose keys are strings or
    numbers. Any other value is replaced by the name of its type.
    """
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return {"other": "whole number of thousands of digits"}
    if value is None or isinstance(value, bool | str | int):
        return {"plain": value}
    if isinstance(value, float):
        return {"plain": value} if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list | tuple):
        return {"list": [encode(item, tensors) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, tensors), encode(item, tensors)] for key, item in value.items()]}
    return {"other": type(value).__name__}


class Foreign:
    """Represents a value that is not a plain value. It is not equal to any other value."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<a {self.kind}>"


def decode(coded: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the value of a JSON form. Raises `KeyError` or `ValueError` for a form that `encode` does not write."""
    ((kind, content),) = coded.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "plain":
        return content
    if kind == "float":
        return float(content)
    if kind == "list":
        return [decode(item, tensors) for item in content]
    if kind == "dict":
        return {decode(key, tensors): decode(item, tensors) for key, item in content}
    if kind == "other":
        return Foreign(str(content))
    raise ValueError(f"{kind!r} is not a known form of a value")
