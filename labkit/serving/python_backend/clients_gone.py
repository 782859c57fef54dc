"""Notices that a client has gone: Triton tells it only to who asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

LOOK_SECONDS = 0.1
"""Between two looks at the same request."""

SHARE = 0.05
"""Of the time that looking may take at most: each look asks the server's process."""


class ClientsGone:
    """Calls `cancel` of a request whose client has cancelled it, closed its connection, or waits no longer."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[Any, Callable[[], None]]] = {}
        self._changed = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._look, name="labkit clients", daemon=True)
        self._thread.start()

    def watch(self, number: int, sender: Any, cancel: Callable[[], None]) -> None:
        """Begin to look after a request, by its response sender."""
        self._watched[number] = sender, cancel
        self._changed.set()

    def forget(self, number: int) -> None:
        """Look no more: the last response is on its way."""
        self._watched.pop(number, None)

    def close(self) -> None:
        """Look no more at all."""
        self._closed = True
        self._changed.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._closed:
            self._changed.wait()
            self._changed.clear()
            while self._watched and not self._closed:
                began = time.monotonic()
                for number, (sender, cancel) in list(self._watched.items()):
                    if sender.is_cancelled():
                        self.forget(number)
                        cancel()
                took = time.monotonic() - began
                time.sleep(max(LOOK_SECONDS, took / SHARE))
