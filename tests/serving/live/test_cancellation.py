"""If the client of a request has gone, or the request's time is over, the request's place in the engine becomes free."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from labkit.serving.channels import client_library, grpc_client
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from tests.patience import PATIENCE, wait_for
from tests.sampled import one_in
from tests.serving.live.requests import (
    PROMPT,
    ensemble,
    fastertransformer,
    infer,
    long_request,
    post,
    streaming,
)
from tests.serving.live.test_counters import at_rest

ROOM = 2
"""The number of sequences that the server of this module runs at a time. It has no queue: it refuses all further requests."""

NEW_TOKENS = 500
ATTEMPTS = 6


@pytest.fixture(scope="module")
def narrow(triton_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("narrow")
    write_repository(folder / "repository", ServeSettings(max_batch=ROOM, max_queue=0))
    with Server(folder / "repository", watch=False, log=folder / "log") as server:
        yield server


def has_place_for(server: Server, prompts: int) -> bool:
    """Whether the engine accepts a request with this many prompts now."""
    try:
        infer(server, "fastertransformer", fastertransformer([[260]] * prompts, 1))
    except client_library().InferenceServerException as error:
        if "which is the limit" not in str(error.message()):
            raise
        return False
    return True


def wait_until_idle(server: Server) -> None:
    """Wait until every place in the engine is free. If only one place were free, the next requests would compete for it."""
    wait_for(lambda: has_place_for(server, ROOM), "free places")


def tokens_made(server: Server) -> int:
    """The number of tokens that the engine has generated so far."""
    return at_rest(server).engine().tokens


@pytest.fixture(scope="module")
def whole(narrow: Server) -> float:
    """The seconds that the long requests take when they are not cancelled."""
    began = time.monotonic()
    with ThreadPoolExecutor(ROOM) as pool:
        list(pool.map(lambda _: infer(narrow, "fastertransformer", long_request("fastertransformer", NEW_TOKENS)), range(ROOM)))
    return time.monotonic() - began


Way = Callable[[Server, contextlib.ExitStack], None]
"""A function that fills the engine with requests that the stack ends. If they are streams, it waits for their first tokens."""


def grpc_streams_end(server: Server, stack: contextlib.ExitStack) -> None:
    for found in [stack.enter_context(streaming(server, long_request("gptj", NEW_TOKENS, stream=True))) for _ in range(ROOM)]:
        response = found.get(timeout=PATIENCE)
        assert not isinstance(response, Exception), response


def http_streams_end(server: Server, stack: contextlib.ExitStack) -> None:
    body = {"text_input": PROMPT, "max_new_tokens": NEW_TOKENS, "ignore_eos": True, "stream": True}
    for _ in range(ROOM):
        connection = http.client.HTTPConnection(server.http, timeout=PATIENCE)
        stack.callback(connection.close)
        connection.request("POST", "/v2/models/gptj/generate_stream", json.dumps(body))
        response = stack.enter_context(connection.getresponse())  # an open response would keep the connection open
        assert b"token_ids" in response.readline()


def grpc_calls_end(server: Server, stack: contextlib.ExitStack) -> None:
    client = stack.enter_context(grpc_client(server.grpc))
    for _ in range(ROOM):
        given = long_request("fastertransformer", NEW_TOKENS)
        stack.callback(client.async_infer("fastertransformer", given, lambda result, error: None).cancel)


@pytest.mark.parametrize("way", one_in(3, [grpc_streams_end, http_streams_end, grpc_calls_end]))
def test_a_client_that_goes_frees_its_place(narrow: Server, whole: float, way: Way) -> None:
    found = []
    for _ in range(ATTEMPTS):
        before = tokens_made(narrow)
        with contextlib.ExitStack() as stack:
            way(narrow, stack)
            time.sleep(whole / 8)  # if the check arrived before the requests, it would take the place of one of them
            full = not has_place_for(narrow, 1)
        wait_until_idle(narrow)
        made = tokens_made(narrow) - before
        if full and made < ROOM * NEW_TOKENS / 2:
            return
        found.append((full, made))
    pytest.fail(f"whether it was full, and how many tokens were made: {found}; {ROOM} whole requests are {NEW_TOKENS} each")


@pytest.mark.parametrize("model", ["gptj", "fastertransformer", "ensemble"])
@pytest.mark.parametrize("which", one_in(2, ["timeout", "deadline"]))
def test_a_request_whose_time_is_up_frees_its_place(narrow: Server, whole: float, model: str, which: str) -> None:
    """`timeout` is Triton's parameter, in microseconds. It is the only time limit that Triton passes through an ensemble."""
    if (model, which) == ("ensemble", "deadline"):
        pytest.skip("not measured here: Triton hands on an ensemble's cancellation between its steps only")
    seconds, words = whole / 8, "its deadline has passed; it had generated" if which == "timeout" else "Deadline Exceeded"
    found = []
    for _ in range(ATTEMPTS):
        before = tokens_made(narrow)
        with ThreadPoolExecutor(ROOM) as pool:
            asked = [pool.submit(_ask_in_time, narrow, model, which, seconds) for _ in range(ROOM)]
            messages = [_failure(one) for one in asked]
        wait_until_idle(narrow)
        made = tokens_made(narrow) - before
        if made < ROOM * NEW_TOKENS / 2 and all(words in message for message in messages):
            return
        found.append((made, messages))
    pytest.fail(f"tokens made, and messages: {found}; {ROOM} whole requests are {NEW_TOKENS} tokens each")


def _ask_in_time(server: Server, model: str, which: str, seconds: float) -> None:
    microseconds = int(seconds * 1e6)
    if model != "gptj":
        infer(server, model, long_request(model, NEW_TOKENS), **_limit(which, "client_timeout", seconds, microseconds))
        return
    with streaming(
        server, long_request(model, NEW_TOKENS, stream=True), **_limit(which, "seconds", seconds, microseconds)
    ) as found:
        while not isinstance(response := found.get(timeout=PATIENCE), Exception):
            pass
        raise response


def _limit(which: str, name: str, seconds: float, microseconds: int) -> dict[str, Any]:
    return {"timeout": microseconds} if which == "timeout" else {name: seconds}


def _failure(asked: Future[None]) -> str:
    """The error of a request, or a text that says that the request was answered before its time was over."""
    error = asked.exception()
    if error is None:
        return "answered in time"
    assert isinstance(error, client_library().InferenceServerException), error
    return str(error.message())


def test_timeout_over_http(narrow: Server) -> None:
    given = {"input_ids": [260], "input_lengths": [1], "request_output_len": [NEW_TOKENS], "end_id": [8000]}
    inputs = [{"name": name, "datatype": "UINT32", "shape": [1, 1], "data": data} for name, data in given.items()]
    body = {"inputs": inputs, "parameters": {"timeout": 1000}}
    status, text = post(narrow, "/v2/models/fastertransformer/infer", body)
    assert status >= 400, text
    assert "its deadline has passed" in text


def test_a_full_queue_is_named(narrow: Server) -> None:
    with contextlib.ExitStack() as stack:
        grpc_streams_end(narrow, stack)
        for model, inputs in (("ensemble", ensemble(["The"], 1)), ("fastertransformer", fastertransformer([[260]], 1))):
            with pytest.raises(client_library().InferenceServerException) as caught:
                infer(narrow, model, inputs)
            assert "UNAVAILABLE" in caught.value.status()
            assert "2 requests are running or waiting (2 + a queue of 0), which is the limit" in caught.value.message()
        status, text = post(narrow, "/v2/models/gptj/generate", {"text_input": "The"})
        assert (status, "which is the limit" in text) == (400, True), "Triton answers /generate so, whatever the error"


def test_more_prompts_than_ever_fit_are_refused_at_once(narrow: Server) -> None:
    with pytest.raises(client_library().InferenceServerException) as caught:
        infer(narrow, "fastertransformer", fastertransformer([[260]] * (ROOM + 1), 1))
    assert "INVALID_ARGUMENT" in caught.value.status()
    assert "3 prompts; at most 2" in caught.value.message()
