"""Checks a prompt and its parameters, and turns them into a message of the protocol: a request to `gptj`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labkit.errors import InvalidRequest
from labkit.serving import error_kind
from labkit.serving.channels import client_library
from labkit.serving.nearest_name import one_of
from labkit.serving.repository.tensors import GPTJ_INPUTS, TensorSpec

_OF_THE_CLIENT = ("text_input", "input_ids", "stream")
PARAMETERS = {spec.name: spec for spec in GPTJ_INPUTS if spec.name not in _OF_THE_CLIENT}
"""The parameters that may be given with a prompt, by name."""

_SPECS = {spec.name: spec for spec in GPTJ_INPUTS}
_FIELDS = {
    "STRING": "bytes_contents",
    "BOOL": "bool_contents",
    "FP32": "fp32_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT32": "uint_contents",
}
_MEANT = {"STRING": "text", "BOOL": "True or False", "FP32": "a number"}


def request_of(model: str, prompt: str | Sequence[int], params: Mapping[str, Any], *, stream: bool) -> Any:
    """Return the protocol's message `ModelInferRequest` for a prompt. Parameters that are None are left out.

    Raises `InvalidRequest` for an unknown parameter (and suggests the most similar name) and for a value of the wrong type.
    """
    for name in params:
        if name not in PARAMETERS:
            raise InvalidRequest(f"{name} is not a parameter of {model}; {one_of(name, PARAMETERS)}")
    request = client_library().service_pb2.ModelInferRequest(model_name=model)
    request.parameters[error_kind.PARAMETER].bool_param = True
    if isinstance(prompt, str):
        _add(request, _SPECS["text_input"], [prompt])
    else:
        _add(request, _SPECS["input_ids"], _many("input_ids", prompt))
    _add(request, _SPECS["stream"], [stream])
    for name, value in params.items():
        if value is not None:
            _add_parameter(request, PARAMETERS[name], value)
    return request


def _add_parameter(request: Any, spec: TensorSpec, value: Any) -> None:
    if spec.dims == (1,):
        _add(request, spec, [value])
        return
    values = [value] if isinstance(value, str | int) else _many(spec.name, value)
    if values:  # an empty list means the same as no list
        _add(request, spec, values)


def _many(name: str, value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        accepted = "a text, or token ids" if name == "input_ids" else "a list"
        raise InvalidRequest(f"{name} is {value!r}; {accepted} is accepted") from None


def _add(request: Any, spec: TensorSpec, values: list[Any]) -> None:
    if not values:
        raise InvalidRequest("the prompt has no token; give at least one")
    datatype = "BYTES" if spec.dtype == "STRING" else spec.dtype
    tensor = request.inputs.add(name=spec.name, datatype=datatype, shape=[len(values)])
    getattr(tensor.contents, _FIELDS[spec.dtype]).extend(_checked(spec, value) for value in values)


def _checked(spec: TensorSpec, value: Any) -> Any:
    """Convert a value to the type that the message needs. Raises `InvalidRequest` if the value has the wrong type."""
    if isinstance(value, np.generic):
        value = value.item()
    kind = spec.dtype
    if kind == "STRING" and isinstance(value, str):
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{spec.name} has half a character at index {error.start}; give valid Unicode text") from None
    if (kind == "BOOL" and isinstance(value, bool)) or (
        kind == "FP32" and isinstance(value, int | float) and not isinstance(value, bool)
    ):
        return value
    limits = np.iinfo(spec.numpy_type) if np.issubdtype(spec.numpy_type, np.integer) else None
    if limits and isinstance(value, int) and not isinstance(value, bool) and limits.min <= value <= limits.max:
        return value
    accepted = f"a whole number from {limits.min} to {limits.max}" if limits else _MEANT[kind]
    raise InvalidRequest(f"{spec.name} is {value!r}; {accepted} is accepted")
