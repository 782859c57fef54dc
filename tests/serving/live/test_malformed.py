"""A thousand malformed requests from a seeded generator are each refused with a message, and valid requests still work."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from labkit.engine import Engine, SamplingParams
from labkit.serving.channels import channel_options
from labkit.serving.server import Server
from tests.patience import PATIENCE
from tests.serving.live.requests import PROMPT, ask, ensemble, fastertransformer, gptj, infer, post

REQUESTS = 1000
SEED = 7

pb2 = pytest.importorskip("tritonclient.grpc", reason="not measured here: no tritonclient").service_pb2
grpc = pytest.importorskip("grpc", reason="not measured here: no tritonclient")

GOOD: dict[str, Callable[[], list[Any]]] = {
    "gptj": lambda: gptj(text_input=PROMPT, max_new_tokens=3, temperature=1.0, top_k=5, seed=1, stop=["people"]),
    "ensemble": lambda: ensemble([PROMPT, "The"], 3, temperature=1.0, runtime_top_k=5, bad="a,b", stop="c"),
    "fastertransformer": lambda: fastertransformer([[260, 951], [14]], 3, temperature=1.0, runtime_top_k=5),
    "preprocessing": lambda: _renamed(ensemble([PROMPT, "The"], 3), ["QUERY", "REQUEST_OUTPUT_LEN", "BAD_WORDS_DICT"]),
    "postprocessing": lambda: _renamed(fastertransformer([[260, 951]], 3)[:1], ["TOKENS_BATCH"], [1, 1, 2]),
}


def _renamed(inputs: list[Any], names: list[str], shape: list[int] | None = None) -> list[Any]:
    from labkit.serving.channels import client_library

    made = []
    for name, given in zip(names, inputs, strict=False):
        tensor = client_library().InferInput(name, shape or given.shape(), given.datatype())
        tensor._raw_content = given._get_content()
        made.append(tensor)
    return made


def message_of(model: str, inputs: list[Any]) -> Any:
    """The request as a protobuf message, which can hold values that no client library would send."""
    message = pb2.ModelInferRequest(model_name=model)
    for given in inputs:
        message.inputs.add(name=given.name(), datatype=given.datatype(), shape=given.shape())
        message.raw_input_contents.append(given._get_content())
    return message


Mistake = Callable[[Any, random.Random], bool]
"""A function that makes a message wrong. It returns False if this message cannot be made wrong in this way."""


def some_input(message: Any, draw: random.Random) -> int:
    return draw.randrange(len(message.inputs))


def unknown_input(message: Any, draw: random.Random) -> bool:
    message.inputs.add(name=f"nonsense {draw.random()}", datatype="INT32", shape=[1, 1])
    message.raw_input_contents.append(b"\0\0\0\0")
    return True


def wrong_dtype(message: Any, draw: random.Random) -> bool:
    message.inputs[some_input(message, draw)].datatype = draw.choice(["FP64", "INT8", "BF16", "", "nonsense"])
    return True


def wrong_shape(message: Any, draw: random.Random) -> bool:
    shapes = [[], [-1], [-3, 2], [2**40], [2**62, 4], [7, 5, 3, 2], [1] * 1000, [3, 1]]
    message.inputs[some_input(message, draw)].shape[:] = draw.choice(shapes)
    return True


def too_few_bytes(message: Any, draw: random.Random) -> bool:
    number = some_input(message, draw)
    message.raw_input_contents[number] = message.raw_input_contents[number][: -draw.randint(1, 3)]
    return True


def too_many_bytes(message: Any, draw: random.Random) -> bool:
    message.raw_input_contents[some_input(message, draw)] += draw.randbytes(draw.randint(1, 3))
    return True


MAY_BE_EMPTY = ("stop", "INPUT_2", "INPUT_3", "BAD_WORDS_DICT")
"""Word lists, which may be empty: an empty list means that there are no such words."""


def no_elements(message: Any, draw: random.Random) -> bool:
    number = some_input(message, draw)
    if message.inputs[number].name in MAY_BE_EMPTY:
        return False
    shape = list(message.inputs[number].shape)
    message.inputs[number].shape[:] = [*shape[:-1], 0]
    message.raw_input_contents[number] = b""
    return True


def missing_contents(message: Any, draw: random.Random) -> bool:
    del message.raw_input_contents[-draw.randint(1, len(message.raw_input_contents)) :]
    return True


def nothing_at_all(message: Any, draw: random.Random) -> bool:
    del message.inputs[:], message.raw_input_contents[:]
    return True


def twice(message: Any, draw: random.Random) -> bool:
    number = some_input(message, draw)
    message.inputs.add().CopyFrom(message.inputs[number])
    message.raw_input_contents.append(message.raw_input_contents[number])
    return True


def of_datatype(message: Any, datatype: str) -> list[int]:
    return [number for number, given in enumerate(message.inputs) if given.datatype == datatype]


def not_utf8(message: Any, draw: random.Random) -> bool:
    return _strings(message, draw, b"\xff\xfe" + draw.randbytes(4), ("text_input", "INPUT_0", "QUERY", "stop"))


def huge_text(message: Any, draw: random.Random) -> bool:
    if draw.random() < 0.8:  # a text of ten million bytes takes a while to send
        return False
    return _strings(message, draw, draw.choice([b"a", b" ", "é".encode()]) * 10_000_000, ("text_input", "INPUT_0", "QUERY"))


def wrong_string_length(message: Any, draw: random.Random) -> bool:
    if not (numbers := of_datatype(message, "BYTES")):
        return False
    message.raw_input_contents[draw.choice(numbers)] = struct.pack("<I", draw.choice([2**32 - 1, 2**31, 10**6])) + b"abc"
    return True


def _strings(message: Any, draw: random.Random, value: bytes, names: tuple[str, ...]) -> bool:
    numbers = [number for number in of_datatype(message, "BYTES") if message.inputs[number].name in names]
    if not numbers:
        return False
    number = draw.choice(numbers)
    count = int(np.prod(message.inputs[number].shape))
    message.raw_input_contents[number] = (struct.pack("<I", len(value)) + value) * count
    return True


IMPOSSIBLE: dict[str, list[float]] = {
    "temperature": [float("nan"), float("inf"), -1.0],
    "max_new_tokens": [0, -5, -(2**31), 2**31 - 1],
    "request_output_len": [2**32 - 1, 2**31, 10_000],
    "INPUT_1": [2**32 - 1, 2**31, 10_000],
    "top_k": [-1, -(2**31)],
    "seed": [-1, -(2**63)],
    "input_ids": [2**32 - 1, 8192],
    "input_lengths": [2**32 - 1, 3],
}


def impossible_value(message: Any, draw: random.Random) -> bool:
    numbers = [number for number, given in enumerate(message.inputs) if given.name in IMPOSSIBLE]
    if not numbers:
        return False
    number = draw.choice(numbers)
    given = message.inputs[number]
    types = {"FP32": np.float32, "INT32": np.int32, "UINT32": np.uint32, "INT64": np.int64}
    value = draw.choice(IMPOSSIBLE[given.name])
    message.raw_input_contents[number] = np.full(list(given.shape), value, types[given.datatype]).tobytes()
    return True


def wrong_words(message: Any, draw: random.Random) -> bool:
    if message.model_name != "fastertransformer":
        return False
    lists = draw.choice([[[1, 2], [2, 1]], [[1, 2], [5, -1]], [[1, 2], [0, -1]], [[9000, 2], [1, 2]], [[-7, 2], [1, 2]]])
    message.inputs.add(name=draw.choice(["bad_words_list", "stop_words_list"]), datatype="INT32", shape=[2, 2, 2])
    message.raw_input_contents.append(np.array([lists] * 2, np.int32).tobytes())
    return True


def no_csv(message: Any, draw: random.Random) -> bool:
    return _strings(message, draw, b'"never closed' + draw.randbytes(2).hex().encode(), ("INPUT_2", "BAD_WORDS_DICT"))


MISTAKES: list[Mistake] = [
    unknown_input,
    wrong_dtype,
    wrong_shape,
    too_few_bytes,
    too_many_bytes,
    no_elements,
    missing_contents,
    nothing_at_all,
    twice,
    not_utf8,
    huge_text,
    wrong_string_length,
    impossible_value,
    wrong_words,
    no_csv,
]


def malformed(count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """Yield the name of a mistake and a message that contains the mistake, `count` times."""
    draw = random.Random(seed)
    while count:
        model = draw.choice(sorted(GOOD))
        message, mistake = message_of(model, GOOD[model]()), draw.choice(MISTAKES)
        if mistake(message, draw):
            count -= 1
            yield mistake.__name__, message


def refusal(server: Server, name: str, message: Any) -> str:
    """Send a message. Return the status and the words with which it was refused."""
    stub = _stub(server)
    try:
        if message.model_name != "gptj":
            answer = stub.ModelInfer(message, timeout=PATIENCE)
            return f"{name} to {message.model_name} was answered: {str(answer)[:200]}"
        for response in stub.ModelStreamInfer(iter([message]), timeout=PATIENCE):
            return f"INVALID {response.error_message}" if response.error_message else f"{name} to gptj was answered"
        return "the stream ended without a response"
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"


def _stub(server: Server) -> Any:
    from tritonclient.grpc import service_pb2_grpc

    if server.grpc not in _CHANNELS:
        _CHANNELS[server.grpc] = grpc.insecure_channel(server.grpc, channel_options(server.grpc))
    return service_pb2_grpc.GRPCInferenceServiceStub(_CHANNELS[server.grpc])


_CHANNELS: dict[str, Any] = {}


def test_good_ones_are_answered(served: Server) -> None:
    """The requests into which mistakes are planted are valid."""
    for model, inputs in GOOD.items():
        message = message_of(model, inputs())
        assert "was answered" in refusal(served, "nothing", message), model


def test_a_thousand_malformed_requests(served: Server, offline: Engine) -> None:
    messages = list(malformed(REQUESTS, SEED))
    with ThreadPoolExecutor(4) as pool:
        refusals = list(pool.map(lambda one: refusal(served, *one), messages))
    seen = {}
    for (name, message), words in zip(messages, refusals, strict=True):
        status, _, text = words.partition(" ")
        seen[name, message.model_name, words[:300]] = (
            status.startswith(("INVALID", "NOT_FOUND")) and text and "Traceback" not in text
        )
    wrong = [each for each, right in seen.items() if not right]
    assert not wrong, "\n".join(map(str, wrong))
    assert served.is_running
    still_answers(served, offline)


def still_answers(server: Server, offline: Engine) -> None:
    expected = offline.generate(PROMPT, SamplingParams(max_new_tokens=8))[0].text
    assert ask(server, text_input=PROMPT, max_new_tokens=8)["text_output"][0] == expected
    assert infer(server, "ensemble", ensemble([PROMPT], 8))["OUTPUT_0"][0, 0] == PROMPT + expected


def garbage(draw: random.Random) -> tuple[str, bytes]:
    """A path and a body that is not a valid request."""
    model = draw.choice(sorted(GOOD))
    way = draw.choice(["infer", "generate", "generate_stream"])
    whole = b'{"text_input": "Once", "max_new_tokens": 3, "inputs": [{"name": "QUERY", "shape": [1, 1], "datatype": "BYTES"}]}'
    bodies = [
        draw.randbytes(draw.randint(0, 300)),
        whole[: draw.randint(1, len(whole) - 1)],
        b"[" * 100_000,
        b'{"inputs": 5}',
        b'{"inputs": [{"name": 3}]}',
        b"null",
        b'{"text_input": {"a": 1}, "max_new_tokens": "three"}',
        b'{"text_input": "\xff\xfe", "max_new_tokens": 3}',
        b'{"text_input": "' + b"a" * 10_000_000 + b'"}',
    ]
    return f"/v2/models/{model}/{way}", draw.choice(bodies)


def test_garbage_over_http(served: Server, offline: Engine) -> None:
    draw = random.Random(SEED)
    for _ in range(200):
        path, body = garbage(draw)
        status, text = post(served, path, body)
        assert 400 <= status <= 501, (path, body[:80], status, text[:200])
        assert "error" in text, (path, body[:80], status, text[:200])
    still_answers(served, offline)
