"""A response that cannot be sent ends its request with an error. The senders behave like Triton's, without a server."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from labkit.engine.outputs import TokenEvent
from labkit.errors import Cancelled
from labkit.serving.python_backend.client_watch import WaitingClient
from labkit.serving.refusals import Refusals

FINAL = 1
BACKEND = "labkit.serving.python_backend"


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


class Response:
    def __init__(self, outputs: list[Tensor] | None = None, error: Any = None) -> None:
        self.outputs, self.error = outputs or [], error

    def output_tensors(self) -> list[Tensor]:
        return self.outputs


@dataclass
class Sender:
    """A sender whose `send` raises for the responses that do not fit. Like Triton's, it closes before it raises."""

    fits: Callable[[Response], bool]
    decoupled: bool = True
    sent: list[Any] = field(default_factory=list)
    calls: int = 0
    closed: bool = False

    def send(self, response: Response | None = None, flags: int = 0) -> None:
        if self.closed or (response is not None and self.calls and not self.decoupled):
            raise RuntimeError("this sender may send nothing more")
        self.closed = flags == FINAL
        self.calls += 1
        if response is not None and not self.fits(response):
            raise RuntimeError("Failed to increase the shared memory pool size")
        self.sent.append(response)

    def is_cancelled(self) -> bool:
        return False

    @property
    def failures(self) -> list[str]:
        return [response.error[0] for response in self.sent if response is not None and response.error]


class AtOnce:
    """An outbox that calls what is put in at once."""

    def put(self, send: Callable[[Any], None], what: Any) -> None:
        send(what)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules of the two models that send responses, imported with a small `triton_python_backend_utils`."""
    codes = dict.fromkeys(["INVALID_ARG", "UNAVAILABLE", "CANCELLED", "INTERNAL"], 0)
    triton_error = type("TritonError", (tuple,), codes | {"__new__": lambda cls, *given: tuple.__new__(cls, given)})
    utils: Any = SimpleNamespace(
        Tensor=Tensor, InferenceResponse=Response, TritonError=triton_error, TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL
    )
    before = set(sys.modules)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    names = ("gptj", "fastertransformer", "last_response")
    yield SimpleNamespace(**{name: importlib.import_module(f"{BACKEND}.{name}") for name in names})
    package = sys.modules[BACKEND]
    for name in set(sys.modules) - before:
        if name.startswith(f"{BACKEND}."):  # they refer to the small module
            del sys.modules[name]
            delattr(package, name.rpartition(".")[2])


@pytest.fixture(params=["short", "plenty"])
def memory(request: pytest.FixtureRequest, backend: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(backend.last_response, "_is_short", lambda response: request.param == "short")
    return str(request.param)


def client_of(sender: Sender) -> WaitingClient:
    in_flight: Any = SimpleNamespace(begin=lambda: None, end=lambda: None)
    return WaitingClient({}, sender, threading.Event(), in_flight)


class Job:
    token_ids = (1, 2)
    queue_seconds = 0.0

    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def generate(backend: SimpleNamespace, sender: Sender) -> tuple[Job, Refusals, WaitingClient]:
    """Answer a streaming request with the tokens 0, 1, 2, as the engine's thread does."""
    client, refusals, job = client_of(sender), Refusals(), Job()
    answer = backend.gptj.Answer(sender, AtOnce(), client, refusals)
    answer.streams = True
    for token in range(3):
        if job.cancelled:
            answer.fail(Cancelled("its client has disconnected"))
            break
        answer.take(job, TokenEvent(0, 0, token, str(token), finish_reason="length" if token == 2 else None))
    return job, refusals, client


def token_of(response: Response) -> int:
    return -1 if response.error else int(response.outputs[1].as_numpy()[0])


def test_a_stream_that_can_be_sent(backend: SimpleNamespace, memory: str) -> None:
    sender = Sender(lambda response: True)
    job, refusals, _ = generate(backend, sender)
    assert [None if response is None else token_of(response) for response in sender.sent] == (
        [0, 1, 2, None] if memory == "short" else [0, 1, 2]
    )
    assert sender.closed
    assert job.cancelled == 0
    assert sum(refusals.counts.values()) == 0


def test_a_stream_ends_with_an_error_if_a_token_cannot_be_sent(backend: SimpleNamespace, memory: str) -> None:
    sender = Sender(lambda response: token_of(response) != 1)
    job, refusals, client = generate(backend, sender)
    assert job.cancelled == 1
    assert [token_of(response) for response in sender.sent if response] == [0, -1]
    assert sender.failures == ["a response could not be sent: Failed to increase the shared memory pool size"]
    assert sender.closed
    assert not client.has_gone()
    assert sum(refusals.counts.values()) == refusals.counts["failed"] == 1


def test_the_last_token_cannot_be_sent(backend: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.last_response, "SPARE_BYTES", 2**62)
    sender = Sender(lambda response: token_of(response) != 2)
    _, refusals, _ = generate(backend, sender)
    assert sender.failures == ["a response could not be sent: Failed to increase the shared memory pool size"]
    assert sender.sent[-1] is None
    assert sender.closed
    assert refusals.counts["failed"] == 1


def test_nothing_but_the_end_can_be_sent(backend: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.last_response, "SPARE_BYTES", 2**62)
    sender = Sender(lambda response: False)
    generate(backend, sender)
    assert sender.sent == [None]
    assert sender.closed


def test_a_model_that_answers_once(backend: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton reports an error for the request, because it ends without a response."""
    monkeypatch.setattr(backend.last_response, "SPARE_BYTES", 2**62)
    sender, refusals = Sender(lambda response: False, decoupled=False), Refusals()
    answer = backend.fastertransformer.Answer(sender, client_of(sender), refusals)
    answer.send(Response([Tensor("output_ids", np.zeros((1, 1, 4), np.uint32))]))
    assert sender.sent == [None]
    assert sender.closed
    assert refusals.counts["failed"] == 1


def test_memory_is_short_for_a_large_response(backend: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.last_response.os, "statvfs", lambda path: SimpleNamespace(f_bavail=20 * 2**8, f_frsize=4096))
    small, large = (Response([Tensor("output_ids", np.zeros(count, np.uint8))]) for count in (100, 5 * 2**20))
    assert not backend.last_response._is_short(small)
    assert backend.last_response._is_short(large)
