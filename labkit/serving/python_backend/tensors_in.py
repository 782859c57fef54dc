"""What a request brings: its tensors, checked against the description, as the values they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from labkit.errors import Cancelled, DeadlinePassed, InvalidRequest, LabkitError, NotAvailable, Overloaded, RankFailed


def array_of(request: Any, name: str, *, optional: bool = False) -> NDArray[Any] | None:
    """An input as an array, None where the request does not bring it.

    optional: one without elements, an empty list, is None as well. Raises `InvalidRequest` for it otherwise.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    array: NDArray[Any] = tensor.as_numpy()
    if array.size == 0 and optional:
        return None
    if array.size == 0:
        raise InvalidRequest(f"{name} has shape {list(array.shape)} and so no element; give at least one, or leave it out")
    return array


def text_of(value: bytes, name: str) -> str:
    """A string's bytes as text. Raises `InvalidRequest` unless they are UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name} is not UTF-8: byte {value[error.start]:#04x} at {error.start}; encode the text so"
        ) from None


def strings(values: list[str]) -> NDArray[Any]:
    """Texts as Triton takes them: an array of bytes objects."""
    return np.array([value.encode("utf-8") for value in values], dtype=np.object_)


def as_triton_error(error: Exception) -> Any:
    """What a client is told, with gRPC's status for it; what nobody foresaw is INTERNAL."""
    codes: dict[type[Exception], Any] = {
        InvalidRequest: pb_utils.TritonError.INVALID_ARG,
        Overloaded: pb_utils.TritonError.UNAVAILABLE,
        NotAvailable: pb_utils.TritonError.UNAVAILABLE,
        RankFailed: pb_utils.TritonError.UNAVAILABLE,
        Cancelled: pb_utils.TritonError.CANCELLED,
        DeadlinePassed: pb_utils.TritonError.CANCELLED,
    }
    known = isinstance(error, LabkitError)
    words = str(error) if known else f"{type(error).__name__}: {error}"
    return pb_utils.TritonError(words, codes.get(type(error), pb_utils.TritonError.INTERNAL))
