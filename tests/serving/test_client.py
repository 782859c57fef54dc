"""Clients of `gptj`: whole texts and streamed pieces, refusals by the client and by the server, and all ways in which a request
can end. No caller waits forever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from labkit.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidRequest,
    LabkitError,
    NotAvailable,
    Overloaded,
    RankFailed,
    RequestFailed,
)
from labkit.serving.client import AsyncClient, Client
from labkit.serving.client.errors import RefusedError, error_of, is_safe_to_repeat
from labkit.serving.client.reply import Piece, Reply
from labkit.serving.client.request import request_of
from labkit.serving.error_kind import with_kind
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from labkit.serving.server.install import ServerProgram
from tests.patience import PATIENCE

PROMPT = "In the beginning God created the heaven and the earth"
LONG = {"max_new_tokens": 400, "ignore_eos": True}


@pytest.fixture
def client(gptj_server: Server) -> Iterator[Client]:
    with Client(gptj_server.grpc, timeout=PATIENCE) as made:
        yield made


@pytest.fixture
def nobody() -> str:
    """An address at which no program is listening."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    return f"127.0.0.1:{port}"


def test_a_text_and_its_pieces_are_what_the_engine_makes(client: Client) -> None:
    import labkit

    with labkit.load("gptj-tiny") as engine:
        (expected,) = engine.generate([PROMPT], labkit.SamplingParams(max_new_tokens=12, ignore_eos=True, logprobs=0))
    reply = client.generate(PROMPT, max_new_tokens=12, ignore_eos=True, logprobs=True)
    assert (reply.text, reply.token_ids) == (expected.text, expected.token_ids)
    assert (reply.finish_reason, reply.stop_reason) == ("length", None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (len(expected.prompt_token_ids), 12)
    np.testing.assert_allclose(
        reply.logprobs, [one.logprob for one in expected.completions[0].logprobs or ()], atol=1e-4, rtol=0
    )
    pieces = list(client.stream(PROMPT, max_new_tokens=12, ignore_eos=True, logprobs=True))
    assert len(pieces) == 12
    assert "".join(piece.text for piece in pieces) == reply.text
    assert [token for piece in pieces for token in piece.token_ids] == reply.token_ids
    assert [piece.last is None for piece in pieces] == [True] * 11 + [False]
    assert pieces[-1].last is not None
    assert pieces[-1].last.completion_tokens == 12


def test_token_ids_and_every_parameter_reach_the_engine(client: Client) -> None:
    text = client.generate(PROMPT, max_new_tokens=6)
    assert len(text.token_ids) == 6
    by_ids = client.generate(np.array([5, 6, 7]), max_new_tokens=6, ignore_eos=True)
    assert by_ids.prompt_tokens == 3
    assert client.generate([5, 6, 7], max_new_tokens=6, ignore_eos=True) == Reply(
        **vars(by_ids) | {"queue_seconds": pytest.approx(0, abs=5)}
    )
    stopped = client.generate([5, 6, 7], max_new_tokens=6, ignore_eos=True, stop_token_ids=by_ids.token_ids[2])
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", str(by_ids.token_ids[2]))
    assert len(stopped.token_ids) == 3
    sampling: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 3, "repetition_penalty": 1.1}
    drawn = client.generate(PROMPT, max_new_tokens=6, ignore_eos=True, bad_words=["Lord", "God"], stop=(), **sampling)
    assert client.generate(PROMPT, max_new_tokens=6, ignore_eos=True, bad_words=["Lord", "God"], **sampling).text == drawn.text


def test_async_client_does_the_same(gptj_server: Server, client: Client) -> None:
    async def ask() -> tuple[list[Reply], list[Piece]]:
        async with AsyncClient(gptj_server.grpc, timeout=PATIENCE) as asking:
            replies = await asyncio.gather(*(asking.generate(PROMPT, max_new_tokens=number) for number in (3, 4, 5)))
            return list(replies), [piece async for piece in asking.stream(PROMPT, max_new_tokens=5)]

    replies, pieces = asyncio.run(ask())
    assert [reply.completion_tokens for reply in replies] == [3, 4, 5]
    assert replies[2].text == "".join(piece.text for piece in pieces) == client.generate(PROMPT, max_new_tokens=5).text


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"max_new_token": 3}, "max_new_token is not a parameter of gptj; write max_new_tokens"),
        ({"temprature": 3}, "temprature is not a parameter of gptj; write temperature"),
        ({"stream": True}, "stream is not a parameter of gptj; write one of max_new_tokens, min_new_tokens, stop"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; a whole number from -2147483648 to 2147483647 is accepted"),
        ({"max_new_tokens": True}, "max_new_tokens is True; a whole number"),
        ({"seed": 2**70}, f"seed is {2**70}; a whole number"),
        ({"temperature": "hot"}, "temperature is 'hot'; a number is accepted"),
        ({"ignore_eos": 1}, "ignore_eos is 1; True or False is accepted"),
        ({"stop": [3]}, "stop is 3; text is accepted"),
        ({"stop_token_ids": 2.5}, "stop_token_ids is 2.5; a list is accepted"),
        ({"timeout": 0}, "timeout is 0; a number of seconds above 0 is accepted"),
        ({"timeout": float("nan")}, "timeout is nan; a number of seconds above 0 is accepted"),
    ],
)
def test_what_is_not_accepted_is_refused_before_anything_is_sent(nobody: str, params: dict[str, Any], words: str) -> None:
    pytest.importorskip("tritonclient.grpc")
    with Client(nobody) as unheard:
        for call in (unheard.generate, unheard.stream):
            with pytest.raises(InvalidRequest) as refused:
                call(PROMPT, **params)
            assert str(refused.value).startswith(words)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "the prompt has no token"),
        ([-1], "input_ids is -1; a whole number from 0 to"),
        (3, "input_ids is 3; a text, or token ids is accepted"),
        ("\ud800", "text_input has half a character at index 0"),
    ],
)
def test_prompts_that_are_none(prompt: Any, words: str) -> None:
    pytest.importorskip("tritonclient.grpc")
    with pytest.raises(InvalidRequest, match="^" + words):
        request_of("gptj", prompt, {}, stream=False)


@pytest.mark.parametrize("address", ["localhost", "http://localhost:8001", ":8001", "host:port", ""])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"give HOST:PORT of the server's gRPC"):
        Client(address)


def test_the_models_refusal_comes_as_its_own_words(client: Client) -> None:
    for call in (lambda: client.generate(PROMPT, max_new_tokens=-1), lambda: list(client.stream(PROMPT, max_new_tokens=-1))):
        with pytest.raises(InvalidRequest, match=r"^max_new_tokens is -1"):
            call()
    with pytest.raises(InvalidRequest, match="a prompt holds 1000000; this model's token ids are 0 to"):
        client.generate([10**6], max_new_tokens=1)


def test_closing_a_stream_ends_its_request_and_no_other(client: Client) -> None:
    others = client.stream(PROMPT, max_new_tokens=60, ignore_eos=True)
    next(others)
    streams = [client.stream(PROMPT, **LONG) for _ in range(15)]
    for stream in streams:
        next(stream)
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    assert len(list(others)) == 59
    waiting = [client.stream(PROMPT, max_new_tokens=1) for _ in range(15)]
    assert all(next(stream).last for stream in waiting), "there is room for them"


def test_cancelling_a_task_ends_its_request(gptj_server: Server) -> None:
    async def ask() -> Reply:
        async with AsyncClient(gptj_server.grpc, timeout=PATIENCE) as asking:
            tasks = [asyncio.create_task(asking.generate(PROMPT, **LONG)) for _ in range(16)]
            await asyncio.sleep(0.2)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended)
            return await asking.generate(PROMPT, max_new_tokens=1)

    assert asyncio.run(ask()).completion_tokens == 1


def test_too_many_at_once_are_refused_and_asked_again(gptj_server: Server) -> None:
    async def ask() -> None:
        async with AsyncClient(gptj_server.grpc, timeout=PATIENCE, retries=0) as asking:
            busy = [asyncio.create_task(asking.generate(PROMPT, **LONG)) for _ in range(24)]  # there are places for 20

            async def keep_busy_until_refused() -> None:
                while True:  # on a busy machine, the first requests can end before the last have arrived
                    ended, _ = await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
                    for task in ended:
                        task.result()
                        busy[busy.index(task)] = asyncio.create_task(asking.generate(PROMPT, **LONG))

            with pytest.raises(Overloaded, match=r"20 requests are running or waiting \(16 \+ a queue of 4\)"):
                await keep_busy_until_refused()
            assert await asyncio.to_thread(gptj_server.probes.answers, "gptj"), "a refusal by the limit is an answer"
            async with AsyncClient(gptj_server.grpc, timeout=PATIENCE, retries=8) as patient:
                again = asyncio.create_task(patient.generate(PROMPT, max_new_tokens=1))
                await asyncio.sleep(0.1)
                for task in busy:
                    task.cancel()
                assert (await again).completion_tokens == 1
            await asyncio.gather(*busy, return_exceptions=True)

    asyncio.run(ask())


def test_a_request_that_takes_too_long_says_what_had_come(client: Client) -> None:
    with pytest.raises(
        NotAvailable, match=r"did not finish within 0\.05 s; no part of the text had arrived; give the request more time"
    ):
        client.generate(PROMPT * 4, timeout=0.05, **LONG)

    def read_slowly(seconds: float) -> None:
        for _ in client.stream(PROMPT, timeout=seconds, **LONG):
            time.sleep(0.01)

    for seconds in (0.4, 1.0, 2.5, 6.0):  # on a busy machine, the first token takes longer, and so does the last
        with pytest.raises(NotAvailable, match=rf"did not finish within {seconds:g} s; ") as late:
            read_slowly(seconds)
        if re.search(r"; \d+ tokens? of the text had arrived", str(late.value)):
            break
    else:
        pytest.fail(str(late.value))


def test_nobody_at_the_address(nobody: str) -> None:
    pytest.importorskip("tritonclient.grpc")
    began = time.monotonic()
    with Client(nobody, retries=1) as alone, pytest.raises(NotAvailable, match=f"no server answers at {nobody}"):
        alone.generate(PROMPT)
    assert time.monotonic() - began > 0.15, "it was asked again, after a pause"


def test_an_address_that_takes_connections_and_says_nothing() -> None:
    pytest.importorskip("tritonclient.grpc")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with Client(address, timeout=0.5) as waiting, pytest.raises(NotAvailable):
            waiting.generate(PROMPT)


def test_a_model_that_the_server_does_not_have(gptj_server: Server) -> None:
    with Client(gptj_server.grpc, model="gptk") as lost, pytest.raises(NotAvailable, match="unknown model: 'gptk'"):
        lost.generate(PROMPT)


def test_a_server_that_is_killed_leaves_nobody_waiting(server_program: ServerProgram, tmp_path: Path) -> None:
    write_repository(tmp_path, ServeSettings())
    with (
        Server(tmp_path, models=["gptj"], program=server_program, watch=False) as server,
        Client(server.grpc, timeout=PATIENCE) as client,
    ):
        stream = client.stream(PROMPT, **LONG)
        next(stream)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(NotAvailable, match=r"tokens? of the text had arrived"):
            list(stream)
        with pytest.raises(NotAvailable) as gone:
            client.generate(PROMPT)
        assert "did not finish within" not in str(gone.value), "nobody waited for it"


def failure(status: str, words: str) -> Any:
    return SimpleNamespace(code=lambda: SimpleNamespace(name=status), details=lambda: words)


OVERLOAD = "20 requests are running or waiting (16 + a queue of 4), which is the limit; ask again later"
NO_CONNECTION = "failed to connect to all addresses; last error: refused"


@pytest.mark.parametrize(
    ("status", "words", "kind", "again"),
    [
        ("UNAVAILABLE", NO_CONNECTION, NotAvailable, True),
        ("UNAVAILABLE", "Socket closed", NotAvailable, False),
        ("CANCELLED", "Channel closed!", Cancelled, False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", NotAvailable, False),
        ("INTERNAL", "KeyError: 3", LabkitError, False),
    ],
)
def test_what_each_status_of_grpc_means(status: str, words: str, kind: type[Exception], again: bool) -> None:
    assert type(error_of(failure(status, words), "a:1", 3, 0)) is kind
    assert is_safe_to_repeat(failure(status, words)) is again


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (InvalidRequest("top_p is 3"), InvalidRequest, False),
        (Overloaded(OVERLOAD), Overloaded, True),
        (Cancelled("the model is being unloaded"), Cancelled, False),
        (DeadlinePassed("its deadline has passed"), DeadlinePassed, False),
        (RankFailed("rank 1 is gone"), NotAvailable, False),
        (NotAvailable("no engine answers"), NotAvailable, False),
        (RequestFailed("the logits are not finite"), LabkitError, False),
        (KeyError(3), LabkitError, False),
    ],
)
def test_what_each_error_of_the_model_means(error: Exception, kind: type[Exception], again: bool) -> None:
    refused = RefusedError(with_kind(error, f"words of {error}"))
    found = error_of(refused, "a:1", 3, 0)
    assert type(found) is kind
    assert f"words of {error}" in str(found)
    assert is_safe_to_repeat(refused) is again


@pytest.mark.parametrize(
    "words", ["Stub process 'gptj_0_0' is not healthy.", "Request for unknown model: 'gptj' is not ready", "a: b"]
)
def test_an_error_of_triton_itself_means_that_the_model_is_not_available(words: str) -> None:
    found = error_of(RefusedError(words), "a:1", 3, 2)
    assert type(found) is NotAvailable
    assert str(found) == f"a:1: {words}; 2 tokens of the text had arrived"
    assert not is_safe_to_repeat(RefusedError(words))


def test_nothing_is_asked_again_of_which_an_answer_has_begun() -> None:
    pytest.importorskip("tritonclient.grpc")
    with Client("127.0.0.1:1", retries=5) as client:
        exchange = client._settings.exchange("a", {}, 10, stream=True)
        assert 0.2 <= exchange.pause_after(RefusedError(with_kind(Overloaded(OVERLOAD), OVERLOAD))) <= 0.3
        assert 0.4 <= exchange.pause_after(failure("UNAVAILABLE", NO_CONNECTION)) <= 0.6
        exchange._tokens = 1
        with pytest.raises(Overloaded):
            exchange.pause_after(RefusedError(with_kind(Overloaded(OVERLOAD), OVERLOAD)))
        short = client._settings.exchange("a", {}, 0.1, stream=True)
        with pytest.raises(Overloaded), contextlib.closing(client):
            short.pause_after(RefusedError(with_kind(Overloaded(OVERLOAD), OVERLOAD)))
