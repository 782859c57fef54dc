"""Notices when the client of a request disconnects. Triton reports a client only if it is asked about that client's request.

Triton reports gRPC clients that cancel, disconnect or reach their deadline, and HTTP clients that close a stream. Triton does
not report HTTP clients that disconnect during a request without streaming, and it does not tell the steps of an ensemble about
the ensemble's client. If a client disconnects without a report, its request ends after its own `timeout`, which all steps of an
ensemble receive, or after the server's `request_seconds`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from labkit.serving.in_flight import InFlightCount
from labkit.serving.shared_folder import shared_folder

LOOK_SECONDS = 0.1
"""The shortest time between two checks of the same request."""

SHARE = 0.05
"""The largest share of time to spend on checks, because each check is a call to the server's process."""

MOST_SECONDS = 0.5
"""The longest time between two checks of the same request, even if checks take a long time."""


class WaitingClient:
    """The client that waits for the answer to one request.

    is_counted: whether labkit's metrics and the count of unanswered requests include this request.
    """

    def __init__(
        self,
        watched: dict[WaitingClient, Callable[[], None]],
        sender: Any,
        changed: threading.Event,
        in_flight: InFlightCount,
    ) -> None:
        self._watched, self._sender, self._changed, self._in_flight = watched, sender, changed, in_flight
        self._lock = threading.Lock()
        self._over = False
        self.is_counted = True
        in_flight.begin()

    def leave_uncounted(self) -> None:
        """Do not count this request, because it is a probe of the watchdog. Call this once, before `end`.

        If a model's process ended during a counted probe, the whole server would be restarted for a request that nobody needs.
        """
        self.is_counted = False
        self._in_flight.end()

    def watch(self, cancel: Callable[[], None]) -> None:
        """Begin to check this client; `cancel` is called if it disconnects. After `end`, `watch` does nothing."""
        with self._lock:
            if not self._over:
                self._watched[self] = cancel
        self._changed.set()

    def end(self) -> None:
        """Stop checking. Call this before the last response is sent: a check of an ended request crashes the server."""
        with self._lock:
            if self.is_counted and not self._over:
                self._in_flight.end()
            self._over = True
            self._watched.pop(self, None)

    def has_gone(self) -> bool:
        """Whether the client has disconnected before its answer was complete."""
        with self._lock:
            return not self._over and bool(self._sender.is_cancelled())


class ClientWatch:
    """Checks the clients of a model from a thread, and counts the requests that have no complete answer yet."""

    def __init__(self) -> None:
        self._in_flight = InFlightCount(shared_folder(os.getppid()))
        self._watched: dict[WaitingClient, Callable[[], None]] = {}
        self._changed, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="labkit clients", daemon=True)
        self._thread.start()

    def client_of(self, sender: Any) -> WaitingClient:
        """The client to which the responses of `sender` go. The client is not checked until its `watch` is called."""
        return WaitingClient(self._watched, sender, self._changed, self._in_flight)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
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
