"""Clients of the served model `gptj`, blocking and asynchronous: a prompt in, its text out, whole or piece by piece.

Each request is a gRPC stream of its own over one connection, so that one is cancelled without the others. tritonclient
brings the protocol's messages.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving.channels import channel_options, client_library
from labkit.serving.client.errors import WITH_STATUS, error_of, is_safe_to_repeat
from labkit.serving.client.reply import Ending, Piece, Reply, piece_of, reply_of
from labkit.serving.client.request import request_of

__all__ = ["AsyncClient", "Client", "Ending", "Piece", "Reply"]

FIRST_PAUSE = 0.2
"""Seconds before a request is made again for the first time; before each further time it is doubled."""

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", int(500 * FIRST_PAUSE)),
    ("grpc.min_reconnect_backoff_ms", int(500 * FIRST_PAUSE)),
)


class _Settings:
    """What both clients are made with."""

    def __init__(self, address: str, model: str, timeout: float, retries: int) -> None:
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise InvalidRequest(f"the address is {address!r}; HOST:PORT of the server's gRPC is accepted, 127.0.0.1:8001 say")
        if retries < 0:
            raise InvalidRequest(f"retries is {retries}; 0 (a request is made once) or more is accepted")
        self.address, self.model, self.retries = address, model, retries
        self.timeout = _seconds(timeout)

    def exchange(
        self, prompt: str | Sequence[int], params: dict[str, Any], timeout: float | None, *, stream: bool
    ) -> _Exchange:
        seconds = self.timeout if timeout is None else _seconds(timeout)
        return _Exchange(self, request_of(self.model, prompt, params, stream=stream), seconds)


class _Exchange:
    """A request and what has come back, apart from how one waits for it."""

    def __init__(self, settings: _Settings, request: Any, seconds: float) -> None:
        self.request = request
        self._settings, self._seconds = settings, seconds
        self._until = time.monotonic() + seconds
        self._tries = self._tokens = 0
        self._ended = False

    def begin(self) -> None:
        """The time that it has starts now."""
        self._until = time.monotonic() + self._seconds

    def seconds_left(self) -> float:
        return max(0.001, self._until - time.monotonic())

    def take(self, response: Any) -> Piece:
        """The next piece. Raises `NotAvailable` with the server's words when it has not let a model see the request."""
        if response.error_message:
            raise NotAvailable(f"{self._settings.address}: {response.error_message}")
        piece = piece_of(response.infer_response)
        self._tokens += len(piece.token_ids)
        self._ended = piece.last is not None
        return piece

    def close(self) -> None:
        """No more comes. Raises `NotAvailable` if the text's end was not among what came."""
        if not self._ended:
            raise NotAvailable(
                f"{self._settings.address} ended the answer after {self._tokens} tokens, before the end of the text; "
                "is the model gptj of labkit?"
            )

    def pause_after(self, failure: Any) -> float:
        """Seconds until it may be made again; otherwise raises the failure as labkit's error."""
        self._tries += 1
        pause: float = FIRST_PAUSE * 2 ** (self._tries - 1) * random.uniform(1, 1.5)  # not all clients at the same moment
        more = self._tries <= self._settings.retries and pause < self._until - time.monotonic()
        if self._tokens or not more or not is_safe_to_repeat(failure):
            raise error_of(failure, self._settings.address, self._seconds, self._tokens) from None
        return pause


class Client:
    """A connection to the model `gptj` of a server; may be used from several threads, and is a context manager.

    grpc_address: HOST:PORT of the server's gRPC. timeout: seconds that a request may take from its beginning to its end,
    repetitions counted. retries: how many times a request is made again that the server refused by its limit or that found
    no connection; one of which an answer has begun never is. Nothing is sent until the first request. Raises
    `InvalidRequest` for settings that cannot be, `NotAvailable` where tritonclient is not installed.
    """

    def __init__(self, grpc_address: str, *, model: str = "gptj", timeout: float = 60.0, retries: int = 2) -> None:
        self._settings = _Settings(grpc_address, model, timeout, retries)
        library = client_library()
        import grpc

        self._channel = grpc.insecure_channel(grpc_address, options=channel_options(grpc_address, _OPTIONS))
        self._call = library.service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelStreamInfer

    def generate(self, prompt: str | Sequence[int], *, timeout: float | None = None, **params: Any) -> Reply:
        """The text that continues a prompt (a text or token ids), in one response.

        timeout: seconds for this request, in place of the client's. params: `temperature`, `max_new_tokens` and the others
        of `PARAMETERS`; None is as good as leaving one out. Raises `InvalidRequest` for what is not accepted, `Overloaded`
        when too many wait, `Cancelled` when the model is being unloaded, `DeadlinePassed` when the server's own limit is
        reached, and `NotAvailable` without a server that answers, for a connection that breaks, and when time is up.
        """
        exchange = self._settings.exchange(prompt, params, timeout, stream=False)
        return reply_of(list(self._pieces(exchange)))

    def stream(self, prompt: str | Sequence[int], *, timeout: float | None = None, **params: Any) -> Iterator[Piece]:
        """The text in pieces as they are made; arguments and errors are those of `generate`.

        What is not accepted by this client is refused at once; the request is sent when the first piece is asked for.
        Closing the iterator (its `close`, or forgetting it) cancels the request.
        """
        return self._pieces(self._settings.exchange(prompt, params, timeout, stream=True))

    def close(self) -> None:
        """Close the connection; requests that run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pieces(self, exchange: _Exchange) -> Iterator[Piece]:
        import grpc

        exchange.begin()
        while True:
            call = self._call(iter([exchange.request]), timeout=exchange.seconds_left(), metadata=WITH_STATUS)
            try:
                for response in call:
                    yield exchange.take(response)
                exchange.close()
                return
            except grpc.RpcError as failure:
                pause = exchange.pause_after(failure)
            finally:
                call.cancel()
            time.sleep(pause)


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and errors; for one event loop, in which it is made."""

    def __init__(self, grpc_address: str, *, model: str = "gptj", timeout: float = 60.0, retries: int = 2) -> None:
        self._settings = _Settings(grpc_address, model, timeout, retries)
        library = client_library()
        import grpc

        self._channel = grpc.aio.insecure_channel(grpc_address, options=channel_options(grpc_address, _OPTIONS))
        self._call = library.service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelStreamInfer

    async def generate(self, prompt: str | Sequence[int], *, timeout: float | None = None, **params: Any) -> Reply:
        """`Client.generate`. Cancelling the task cancels the request."""
        exchange = self._settings.exchange(prompt, params, timeout, stream=False)
        return reply_of([piece async for piece in self._pieces(exchange)])

    def stream(self, prompt: str | Sequence[int], *, timeout: float | None = None, **params: Any) -> AsyncIterator[Piece]:
        """`Client.stream`. Cancelling the task, or the iterator's `aclose` (`contextlib.aclosing`), cancels the request."""
        return self._pieces(self._settings.exchange(prompt, params, timeout, stream=True))

    async def close(self) -> None:
        """Close the connection; requests that run are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _pieces(self, exchange: _Exchange) -> AsyncIterator[Piece]:
        import grpc

        exchange.begin()
        while True:
            call = self._call(iter([exchange.request]), timeout=exchange.seconds_left(), metadata=WITH_STATUS)
            try:
                async for response in call:
                    yield exchange.take(response)
                exchange.close()
                return
            except grpc.RpcError as failure:
                pause = exchange.pause_after(failure)
            finally:
                call.cancel()
            await asyncio.sleep(pause)


def _seconds(timeout: float) -> float:
    if not 0 < timeout < float("inf"):
        raise InvalidRequest(f"timeout is {timeout}; a number of seconds above 0 is accepted")
    return timeout
