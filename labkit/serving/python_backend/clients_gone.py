"""Notices that a client has gone: Triton tells it only to who asks.

It tells of a gRPC client that cancels, closes its connection or waits no longer, and of an HTTP client that closes a stream.
It does not tell of an HTTP client that leaves a request with one answer, nor, of an ensemble's client, the step that runs:
such requests end by themselves, by their parameter `timeout`, which every step is given, or by the server's `request_seconds`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from labkit.serving.in_flight import InFlight
from labkit.serving.run_folder import run_folder

LOOK_SECONDS = 0.1
"""Between two looks at the same request."""

SHARE = 0.05
"""Of the time that looking should take: each look asks the server's process."""

MOST_SECONDS = 0.5
"""Between two looks, however long they take."""


class Client:
    """Who waits for the answer to one request."""

    def __init__(
        self, watched: dict[Client, Callable[[], None]], sender: Any, changed: threading.Event, in_flight: InFlight
    ) -> None:
        self._watched, self._sender, self._changed, self._in_flight = watched, sender, changed, in_flight
        self._lock = threading.Lock()
        self._over = False
        in_flight.begin()

    def watch(self, cancel: Callable[[], None]) -> None:
        """Begin to look after it; `cancel` is called when it has gone. Nothing happens behind `end`."""
        with self._lock:
            if not self._over:
                self._watched[self] = cancel
        self._changed.set()

    def end(self) -> None:
        """To be called before the last response is sent: whoever asks about a request behind it brings the server down."""
        with self._lock:
            if not self._over:
                self._in_flight.end()
            self._over = True
            self._watched.pop(self, None)

    def has_gone(self) -> bool:
        """Whether it waits no longer, while its answer is not complete."""
        with self._lock:
            return not self._over and bool(self._sender.is_cancelled())


class ClientsGone:
    """Looks after the clients of a model in a thread, and counts the requests that they wait for."""

    def __init__(self) -> None:
        self._in_flight = InFlight(run_folder(os.getppid()))
        self._watched: dict[Client, Callable[[], None]] = {}
        self._changed, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="labkit clients", daemon=True)
        self._thread.start()

    def of(self, sender: Any) -> Client:
        """The client behind a response sender; not yet looked after."""
        return Client(self._watched, sender, self._changed, self._in_flight)

    def close(self) -> None:
        """Look no more at all."""
        self._closed.set()
        self._changed.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._closed.is_set():
            self._changed.wait()
            self._changed.clear()
            while self._watched and not self._closed.is_set():
                began = time.monotonic()
                for client, cancel in self._watched.copy().items():
                    if client.has_gone():
                        self._watched.pop(client, None)
                        cancel()
                took = time.monotonic() - began
                self._closed.wait(min(MOST_SECONDS, max(LOOK_SECONDS, took / SHARE)))
