"""Converts between the tensors of Triton's Python backend and numpy or Python values."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from labkit.errors import InvalidRequest


def array_of(request: Any, name: str, *, optional: bool = False) -> NDArray[Any] | None:
    """An input of a request as an array; None if the request does not have it.

    optional: also return None for an input without elements. If `optional` is false, an input without elements raises
    `InvalidRequest`.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    array: NDArray[Any] = tensor.as_numpy()
    if array.size == 0 and optional:
        return None
    if array.size == 0:
        raise InvalidRequest(
            f"{name} has shape {list(array.shape)} and so no element; give at least one element, or leave the input out"
        )
    return array


def text_of(value: bytes, name: str) -> str:
    """Decode a string element; name: the name of its tensor. Raises `InvalidRequest` if `value` is not UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name} is not UTF-8: byte {value[error.start]:#04x} at index {error.start}; encode the text as UTF-8"
        ) from None


def string_array(values: list[str]) -> NDArray[Any]:
    """Convert texts to the form of a string tensor: an array of bytes objects."""
    return np.array([value.encode("utf-8") for value in values], dtype=np.object_)
