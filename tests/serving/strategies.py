"""Random inputs for the served models, drawn by Hypothesis: requests that are right, nearly right, or completely wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

from labkit.serving.repository.tensors import (
    ENSEMBLE_INPUTS,
    ENSEMBLE_OUTPUTS,
    FASTERTRANSFORMER_INPUTS,
    FASTERTRANSFORMER_OUTPUTS,
    GPTJ_INPUTS,
    GPTJ_OUTPUTS,
    POSTPROCESSING_INPUTS,
    POSTPROCESSING_OUTPUTS,
    PREPROCESSING_INPUTS,
    PREPROCESSING_OUTPUTS,
    TensorSpec,
)

INPUTS = {
    "gptj": GPTJ_INPUTS,
    "ensemble": ENSEMBLE_INPUTS,
    "fastertransformer": FASTERTRANSFORMER_INPUTS,
    "preprocessing": PREPROCESSING_INPUTS,
    "postprocessing": POSTPROCESSING_INPUTS,
}
OUTPUTS = {
    "gptj": GPTJ_OUTPUTS,
    "ensemble": ENSEMBLE_OUTPUTS,
    "fastertransformer": FASTERTRANSFORMER_OUTPUTS,
    "preprocessing": PREPROCESSING_OUTPUTS,
    "postprocessing": POSTPROCESSING_OUTPUTS,
}
NUMBERS = (0, 1, -1, 2, 7, 64, 0.5, 1.0, 1e-46, 1e39, float("nan"), float("inf"), 2**31 - 1, 2**32, 2**63 - 1, 2**64, -(2**63))
TEXTS = ("", " ", "\n", "\0", "Once upon a time", "the", ".", "<|endoftext|>", "\ud800", "日本", "a,b", '"', "1", "true")

texts = st.sampled_from(TEXTS) | st.text(max_size=8)
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers() | st.floats() | texts
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def rarely(draw: st.DrawFn, times: int) -> bool:
    """True in one of `times` cases."""
    return draw(st.integers(1, times)) == times


def likely(spec: TensorSpec) -> st.SearchStrategy[Any]:
    """A value that is plausible for the tensor."""
    if spec.name in ("max_new_tokens", "request_output_len", "INPUT_1", "REQUEST_OUTPUT_LEN"):
        return st.integers(1, 12)
    if spec.name in ("input_lengths", "SEQUENCE_LENGTH"):
        return st.integers(0, 3)
    if spec.dtype == "BOOL":
        return st.booleans()
    if spec.dtype == "STRING":
        return st.sampled_from(TEXTS) | st.text(max_size=20)
    if spec.dtype == "FP32":
        return st.floats(0, 2) | st.sampled_from([0, 1])
    return st.integers(0, 50) | st.integers(0, 9000)


@st.composite
def generate_bodies(draw: st.DrawFn) -> Any:
    """Bodies of Triton's generate extension: inputs by name, some with unlikely values and some with unknown names."""
    body: dict[str, Any] = {"text_input": draw(st.sampled_from(TEXTS[:6])), "max_new_tokens": draw(st.integers(1, 12))}
    for spec in draw(st.lists(st.sampled_from(GPTJ_INPUTS), max_size=5)):
        value = likely(spec)
        body[spec.name] = draw(st.one_of(value, value, value, st.lists(value, max_size=3), json_values))
    if rarely(draw, 4):
        name = draw(
            st.sampled_from(["max_tokens", "num_beams", "parameters", "timeout", "id", "outputs"]) | st.text(max_size=6)
        )
        body[name] = draw(json_values)
    return body


@st.composite
def given_to(draw: st.DrawFn, model: str) -> list[TensorSpec]:
    """The inputs of a request to a model: those that the model needs, and some others."""
    needed = ("text_input",) if model == "gptj" else ()
    return [spec for spec in INPUTS[model] if not spec.optional or spec.name in needed or rarely(draw, 4)]


def shape_of(spec: TensorSpec, count: int, batched: bool) -> list[int]:
    """A shape that the model accepts. If the last dimension is variable, it has the size `count`."""
    dims = [1 if dim < 0 else dim for dim in spec.dims]
    if spec.dims[-1] < 0:
        dims[-1] = count
    return [1, *dims] if batched else dims


@st.composite
def some_values(draw: st.DrawFn, spec: TensorSpec, batched: bool) -> tuple[list[int], list[Any]]:
    """A shape and as many values as the shape holds; sometimes the model does not accept this number of values."""
    count = draw(st.integers(0, 3)) if rarely(draw, 10) else 1
    shape = shape_of(spec, count, batched)
    size = int(np.prod(shape))
    return shape, draw(st.lists(likely(spec), min_size=size, max_size=size))


@st.composite
def tensors(draw: st.DrawFn, spec: TensorSpec, batched: bool) -> dict[str, Any]:
    """One input of an infer request as JSON. Sometimes the model does not accept its shape, datatype or values."""
    shape, values = draw(some_values(spec, batched))
    tensor = {
        "name": spec.name,
        "datatype": spec.dtype.replace("STRING", "BYTES"),
        "shape": shape,
        "data": values,
    }
    if rarely(draw, 30):
        tensor[draw(st.sampled_from(sorted(tensor)))] = draw(json_values)
    if rarely(draw, 30):
        tensor["datatype"] = draw(st.sampled_from(["FP32", "FP64", "INT8", "BOOL", "UINT64", "BYTES", "BF16"]))
    return tensor


@st.composite
def infer_bodies(draw: st.DrawFn, model: str) -> Any:
    """Bodies of an infer request to a model."""
    body: dict[str, Any] = {"inputs": [draw(tensors(spec, model != "gptj")) for spec in draw(given_to(model))]}
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from([spec.name for spec in OUTPUTS[model]]), max_size=4))
        if rarely(draw, 8):
            names.append(draw(texts))
        body["outputs"] = [{"name": name} for name in names]
    if rarely(draw, 4):
        body[draw(st.sampled_from(["id", "parameters", "inputs", "outputs", "x"]))] = draw(json_values)
    return body


@st.composite
def http_requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body. Some bodies are cut off or have changed bytes."""
    model = draw(st.sampled_from(sorted(INPUTS)))
    way = draw(st.sampled_from(["infer", "generate", "generate_stream"]))
    if way != "infer" and not rarely(draw, 8):
        model = "gptj"
    sensible = infer_bodies(model) if way == "infer" else generate_bodies()
    value = draw(json_values if rarely(draw, 8) else sensible)
    body = json.dumps(value).encode(errors="replace")
    if rarely(draw, 8):
        body = body[: draw(st.integers(0, len(body)))] + draw(st.binary(max_size=6))
    return f"/v2/models/{model}/{way}", body


@st.composite
def grpc_requests(draw: st.DrawFn) -> Any:
    """A message of the gRPC protocol, with tensors of random values and sometimes with wrong bytes."""
    from tritonclient.grpc import service_pb2

    from labkit.serving.server.probes import as_input

    model = draw(st.sampled_from(sorted(INPUTS)))
    message = service_pb2.ModelInferRequest(model_name=model)
    for spec in draw(given_to(model)):
        shape, values = draw(some_values(spec, model != "gptj"))
        array = np.array([_element(spec, value) for value in values], dtype=object).reshape(shape)
        given = as_input(spec.name, spec.dtype.replace("STRING", "BYTES"), array)
        message.inputs.add(name=given.name(), datatype=given.datatype(), shape=given.shape())
        raw = given._get_content()
        if rarely(draw, 30):
            raw = draw(st.binary(max_size=24))
        message.raw_input_contents.append(raw)
    if rarely(draw, 4):
        name = draw(st.sampled_from(["timeout", "priority", "sequence_id", "binary_data_output"]) | st.text(max_size=6))
        message.parameters[name].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
    if rarely(draw, 4):
        message.outputs.add(name="x" if rarely(draw, 8) else draw(st.sampled_from([spec.name for spec in OUTPUTS[model]])))
    return message


def _element(spec: TensorSpec, value: Any) -> Any:
    return value.encode(errors="replace") if spec.dtype == "STRING" else value
