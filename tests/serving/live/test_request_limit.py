"""A server with one place: `request_seconds` frees it even if a client leaves without a word, and probes may be refused."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from labkit.errors import THE_LIMIT, DeadlinePassed, Overloaded
from labkit.serving.client import Client
from labkit.serving.metrics import read_metrics
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from tests.patience import PATIENCE
from tests.serving.live.requests import PROMPT

LIMIT = 0.1
LONG = {"max_new_tokens": 500, "ignore_eos": True}


@pytest.fixture(scope="module")
def limited(triton_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs one request at a time and has no queue."""
    folder = tmp_path_factory.mktemp("limited")
    settings = ServeSettings(max_batch=1, max_queue=0, threads=1, request_seconds=LIMIT)
    write_repository(folder / "repository", settings)
    with Server(folder / "repository", models=["gptj"], watch=False, log=folder / "log") as server:
        yield server


def test_an_http_client_that_is_gone(limited: Server) -> None:
    connection = http.client.HTTPConnection(limited.http, timeout=PATIENCE)
    connection.request("POST", "/v2/models/gptj/generate", json.dumps({"text_input": PROMPT} | LONG))
    time.sleep(LIMIT / 2)
    connection.close()
    until = time.monotonic() + PATIENCE
    with Client(limited.grpc, retries=0) as client:
        while True:
            try:
                assert len(client.generate("The", max_new_tokens=1).token_ids) == 1
                break
            except (Overloaded, DeadlinePassed):
                assert time.monotonic() < until, "its place was not given back"
                time.sleep(0.02)
    while not read_metrics(limited.metrics).refused("gptj").get("deadline"):
        assert time.monotonic() < until, "the request that was cut off was not counted"
        time.sleep(0.1)


def test_the_error_names_the_servers_limit(limited: Server) -> None:
    words = r"its deadline has passed; it had generated \d+ tokens?; this server gives a request 0.1 s"
    with Client(limited.grpc) as client, pytest.raises(DeadlinePassed, match=words):
        client.generate(PROMPT, **LONG)


def test_a_probe_that_a_full_server_refuses_has_its_answer(limited: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names its kind, so the probe is not sent in the form that can crash a server under load."""
    sent: list[tuple[Any, str]] = []
    ask = limited.probes._first_error

    def noted(model: str, inputs: list[Any], parameters: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        error = ask(model, inputs, parameters, headers)
        sent.append((headers, "" if error is None else error.message()))
        return error

    monkeypatch.setattr(limited.probes, "_first_error", noted)
    enough, until = threading.Event(), time.monotonic() + PATIENCE

    def keep_busy() -> None:
        with Client(limited.grpc, retries=0) as client:
            while not enough.is_set():
                with suppress(Overloaded, DeadlinePassed):
                    client.generate(PROMPT, **LONG)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        while not any(THE_LIMIT in words for _, words in sent):
            assert limited.probes.answers("gptj")
            assert time.monotonic() < until, "no probe was refused"
    finally:
        enough.set()
        busy.join()
    assert all(headers is None for headers, _ in sent)
