"""A blocking and an asynchronous client for the served model `gptj`. The clients return the text whole or piece by piece.

Each request is a separate gRPC stream over the same connection, so that one request can be cancelled while the other requests
continue. The package tritonclient defines the protocol's messages.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from labkit.errors import InvalidRequest, NotAvailable
from labkit.plurals import counted
from labkit.serving.channels import channel_options, client_library
from labkit.serving.client.errors import RefusedError, error_of, is_safe_to_repeat
from labkit.serving.client.reply import Ending, Piece, Reply, piece_of, reply_of
from labkit.serving.client.request import request_of

__all__ = ["AsyncClient", "Client", "Ending", "Piece", "Reply"]

FIRST_PAUSE = 0.2
"""Seconds to wait before a request is repeated for the first time. The pause doubles with each further repetition."""

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", int(500 * FIRST_PAUSE)),
    ("grpc.min_reconnect_backoff_ms", int(500 * FIRST_PAUSE)),
)


class _Settings:
    """The settings of a client."""

    def __init__(self, address: str, model: str, timeout: float, retries: int) -> None:
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise InvalidRequest(f"the address is {address!r}; give HOST:PORT of the server's gRPC, like 127.0.0.1:8001")
        if retries < 0:
            raise InvalidRequest(f"retries is {retries}; a whole number of at least 0 is accepted (0: a request is made once)")
        self.address, self.model, self.retries = address, model, retries
        self.timeout = _seconds(timeout)

    def exchange(
        self, prompt: str | Sequence[int], params: dict[str, Any], timeout: float | None, *, stream: bool
    ) -> _Exchange:
        seconds = self.timeout if timeout is None else _seconds(timeout)
        return _Exchange(self, request_of(self.model, prompt, params, stream=stream), seconds)


class _Exchange:
    """A request and its progress. The clients decide how to wait for the responses."""

    def __init__(self, settings: _Settings, request: Any, seconds: float) -> None:
        self.request = request
        self._settings, self._seconds = settings, seconds
        self._until = time.monotonic() + seconds
        self._tries = self._tokens = 0
        self._ended = False
        self._refused: RefusedError | None = None

    def begin(self) -> None:
        """Start the time limit now."""
        self._until = time.monotonic() + self._seconds

    def seconds_left(self) -> float:
        return max(0.001, self._until - time.monotonic())

    def take(self, response: Any) -> Piece | None:
        """Return the next piece of text, or None for an error. After an error, wait until the stream ends, and call `close`.

        A stream that is cancelled before its end can make Triton crash.
        """
        if response.error_message:
            self._refused = RefusedError(response.error_message)
            return None
        piece = piece_of(response.infer_response)
        self._tokens += len(piece.token_ids)
        self._ended = piece.last is not None
        return piece

    def close(self) -> None:
        """Handle the end of the stream. Raises `RefusedError` after an error, and `NotAvailable` if the text is incomplete."""
        if self._refused is not None:
            raise self._refused
        if not self._ended:
            raise NotAvailable(
                f"{self._settings.address} ended the answer after {counted(self._tokens, 'token')}, before the end of the "
                "text; check that its model gptj is the one that labkit serves"
            )

    def pause_after(self, failure: Any) -> float:
        """Seconds to wait before the request is repeated.

        If the request must not be repeated, raises labkit's error for the failure.
        """
        failure, self._refused = self._refused or failure, None  # an error counts even if the stream did not end after it
        self._tries += 1
        pause: float = (
            FIRST_PAUSE * 2 ** (self._tries - 1) * random.uniform(1, 1.5)
        )  # so that clients do not all repeat at once
        more = self._tries <= self._settings.retries and pause < self._until - time.monotonic()
        if self._tokens or not more or not is_safe_to_repeat(failure):
            raise error_of(failure, self._settings.address, self._seconds, self._tokens) from None
        return pause


class Client:
    """A connection to the model `gptj` of a server. Several threads can share a client. A client is also a context manager.

    grpc_address: HOST:PORT of the server's gRPC. timeout: the time limit of a request in seconds, including repetitions.
    retries: how often a request is repeated if the server is overloaded or cannot be reached. A request is never repeated after
    its answer has begun. Nothing is sent before the first request. Raises `InvalidRequest` for impossible settings, and
    `NotAvailable` if tritonclient is not installed.
    """

    def __init__(self, grpc_address: str, *, model: str = "gptj", timeout: float = 60.0, retries: int = 2) -> None:
        self._settings = _Settings(grpc_address, model, timeout, retries)
        library = client_library()
        import grpc

        self._channel = grpc.insecure_channel(grpc_address, options=channel_options(grpc_address, _OPTIONS))
        self._call = library.service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelStreamInfer

    def generate(self, prompt: str | Sequence[int], *, timeout: float | None = None, **params: Any) -> Reply:
        """Continue a prompt (a text or token ids), and return the whole continuation at once.

        timeout: seconds for this request; if left out, the client's `timeout`. params: any of `PARAMETERS`, such as
        `temperature` or `max_new_tokens`; None means that the parameter is left out. Raises `InvalidRequest` for an unknown
        parameter or a wrong value, `Overloaded` if too many requests wait, `Cancelled` if the model is being unloaded,
        `DeadlinePassed` if the server's own time limit is reached, and `NotAvailable` if no server answers, the connection
        breaks, or `timeout` passes.
        """
        exchange = self._settings.exchange(prompt, params, timeout, stream=False)
        return reply_of(list(self._pieces(exchange)))

    def stream(self, prompt: str | Sequence[int], *, timeout: float | None = None, **params: Any) -> Iterator[Piece]:
        """Continue a prompt, and return the pieces as they are generated. Takes the same arguments as `generate`, and raises
        the same errors.

        The arguments are checked at once, but the request is only sent when the first piece is asked for. Closing or deleting
        the iterator cancels the request.
        """
        return self._pieces(self._settings.exchange(prompt, params, timeout, stream=True))

    def close(self) -> None:
        """Close the connection and cancel running requests."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pieces(self, exchange: _Exchange) -> Iterator[Piece]:
        import grpc

        exchange.begin()
        while True:
            call = self._call(iter([exchange.request]), timeout=exchange.seconds_left())
            try:
                for response in call:
                    if (piece := exchange.take(response)) is not None:
                        yield piece
                exchange.close()
                return
            except (grpc.RpcError, RefusedError) as failure:
                pause = exchange.pause_after(failure)
            finally:
                call.cancel()
            time.sleep(pause)


class AsyncClient:
    """`Client` for asyncio, with the same arguments, methods and errors. Use it only in the event loop that creates it."""

    def __init__(self, grpc_address: str, *, model: str = "gptj", timeout: float = 60.0, retries: int = 2) -> None:
        self._settings = _Settings(grpc_address, model, timeout, retries)
        library = client_library()
        import grpc

        self._channel = grpc.aio.insecure_channel(grpc_address, options=channel_options(grpc_address, _OPTIONS))
        self._call = library.service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelStreamInfer

    async def generate(self, prompt: str | Sequence[int], *, timeout: float | None = None, **params: Any) -> Reply:
        """Like `Client.generate`. Cancelling the task cancels the request."""
        exchange = self._settings.exchange(prompt, params, timeout, stream=False)
        return reply_of([piece async for piece in self._pieces(exchange)])

    def stream(self, prompt: str | Sequence[int], *, timeout: float | None = None, **params: Any) -> AsyncIterator[Piece]:
        """Like `Client.stream`. To cancel the request, cancel the task or close the iterator (`contextlib.aclosing`)."""
        return self._pieces(self._settings.exchange(prompt, params, timeout, stream=True))

    async def close(self) -> None:
        """Close the connection and cancel running requests."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _pieces(self, exchange: _Exchange) -> AsyncIterator[Piece]:
        import grpc

        exchange.begin()
        while True:
            call = self._call(iter([exchange.request]), timeout=exchange.seconds_left())
            try:
                async for response in call:
                    if (piece := exchange.take(response)) is not None:
                        yield piece
                exchange.close()
                return
            except (grpc.RpcError, RefusedError) as failure:
                pause = exchange.pause_after(failure)
            finally:
                call.cancel()
            await asyncio.sleep(pause)


def _seconds(timeout: float) -> float:
    if not 0 < timeout < float("inf"):
        raise InvalidRequest(f"timeout is {timeout}; a number of seconds above 0 is accepted")
    return timeout
