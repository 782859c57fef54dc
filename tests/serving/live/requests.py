"""Sends requests to the served models, and returns their answers as plain values."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from labkit.serving.channels import grpc_client
from labkit.serving.repository.tensors import ENSEMBLE_INPUTS, FASTERTRANSFORMER_INPUTS, GPTJ_INPUTS, TensorSpec
from labkit.serving.server import Server
from labkit.serving.server.probes import as_input, is_last
from tests.patience import PATIENCE

PROMPT = "Once upon a time"


def tensor(spec: TensorSpec, values: Any) -> Any:
    """A gRPC input tensor."""
    return as_input(spec.name, spec.dtype.replace("STRING", "BYTES"), values)


def gptj(**given: Any) -> list[Any]:
    """A request to `gptj`. Each input is one value, or a list for inputs that accept several."""
    specs = {spec.name: spec for spec in GPTJ_INPUTS}
    return [tensor(specs[name], _encoded(value if isinstance(value, list) else [value])) for name, value in given.items()]


def ensemble(prompts: Sequence[str], new_tokens: int, *, bad: str = "", stop: str = "", **sampling: Any) -> list[Any]:
    """A request to `ensemble`. Each sampling input is one value for all prompts, or a list with one value per prompt."""
    specs = {spec.name: spec for spec in ENSEMBLE_INPUTS}
    given = {
        "INPUT_0": list(prompts),
        "INPUT_1": new_tokens,
        "INPUT_2": bad,
        "INPUT_3": stop,
    } | sampling
    return [tensor(specs[name], _column(value, len(prompts))) for name, value in given.items()]


def fastertransformer(prompts: Sequence[Sequence[int]], new_tokens: int, **given: Any) -> list[Any]:
    """A request to `fastertransformer`. Word lists are given as arrays, and other inputs are given as for `ensemble`."""
    specs = {spec.name: spec for spec in FASTERTRANSFORMER_INPUTS}
    longest = max(1, *map(len, prompts))
    inputs = [
        tensor(specs["input_ids"], [[*prompt, *[7] * (longest - len(prompt))] for prompt in prompts]),
        tensor(specs["input_lengths"], [[len(prompt)] for prompt in prompts]),
        tensor(specs["request_output_len"], _column(new_tokens, len(prompts))),
    ]
    for name, value in given.items():
        inputs.append(tensor(specs[name], value if name.endswith("_list") else _column(value, len(prompts))))
    return inputs


def long_request(model: str, new_tokens: int, *, stream: bool = False) -> list[Any]:
    """A request to one of the three models for exactly `new_tokens` new tokens: no token ends it. Only `gptj` can stream."""
    if model == "gptj":
        return gptj(text_input=PROMPT, max_new_tokens=new_tokens, ignore_eos=True, stream=stream)
    if model == "ensemble":
        return ensemble([PROMPT], new_tokens, end_id=8000)
    return fastertransformer([[260, 951]], new_tokens, end_id=8000)


def _column(value: Any, rows: int) -> list[list[Any]]:
    return [[each] for each in _encoded(value if isinstance(value, list) else [value] * rows)]


def _encoded(values: list[Any]) -> list[Any]:
    return [value.encode() if isinstance(value, str) else value for value in values]


def infer(server: Server, model: str, inputs: list[Any], **options: Any) -> dict[str, Any]:
    """Send a request to a model that sends one response. Return its outputs by name."""
    with grpc_client(server.grpc) as client:
        result = client.infer(model, inputs, **{"client_timeout": PATIENCE} | options)
    return _values(result)


@contextlib.contextmanager
def streaming(
    server: Server, inputs: list[Any], *, seconds: float = PATIENCE, **options: Any
) -> Iterator[queue.SimpleQueue[Any]]:
    """Open a stream of `gptj`. Yield a queue that gets, for each response, its outputs by name, or an error.

    The stream is cancelled at the end of the block.
    """
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    over = threading.Event()

    def take(result: Any, error: Any) -> None:
        if error is not None or is_last(result):
            over.set()
        found.put(error or _values(result))

    with grpc_client(server.grpc) as client:
        client.start_stream(take, stream_timeout=seconds)
        client.async_stream_infer("gptj", inputs, **options)
        yield found
        client.stop_stream(cancel_requests=not over.is_set())


def stream(server: Server, inputs: list[Any], **options: Any) -> list[dict[str, Any]]:
    """All responses of `gptj` to one request; raises the error if the request was refused."""
    responses = []
    with streaming(server, inputs, **options) as found:
        while not responses or not responses[-1].get("finish_reason", [""])[0]:
            response = found.get(timeout=PATIENCE)
            if isinstance(response, Exception):
                raise response
            responses.append(response)
    return responses


def ask(server: Server, **given: Any) -> dict[str, Any]:
    """The single response of `gptj` to a request that does not stream."""
    (response,) = stream(server, gptj(**given))
    return response


def _values(result: Any) -> dict[str, Any]:
    response = result.get_response()
    found = {}
    for output in response.outputs:
        array = result.as_numpy(output.name)
        found[output.name] = np.vectorize(bytes.decode, otypes=[object])(array) if array.dtype == object else array
    return found


def post(server: Server, path: str, body: Any, *, timeout: float = PATIENCE) -> tuple[int, str]:
    """The status and text of the answer to an HTTP POST; the body is sent as JSON unless it is bytes."""
    connection = http.client.HTTPConnection(server.http, timeout=timeout)
    try:
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()
