"""Lets a command end when SIGINT (Ctrl-C) or SIGTERM arrives."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable


class Interruption:
    """Whether a signal that ends the command has arrived.

    A signal handler runs in the main thread, between any two steps of that thread. If the handler set a `threading.Event` for
    which this thread waits, it could need a lock that the thread holds already, and would wait for ever. So the handler writes
    to a pipe, which needs no lock.

    again: called in the signal handler if another signal arrives later.
    """

    def __init__(self) -> None:
        self.again: Callable[[], None] = lambda: None
        self._is_set = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def listen(self, *numbers: int) -> None:
        """Take these signals, by default SIGINT and SIGTERM. Call this in the main thread."""
        for number in numbers or (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: self._arrived())

    def set(self) -> None:
        """End the waiting, now and later."""
        self._is_set = True
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so nobody can be waiting
            os.write(self._write, b"!")

    def _arrived(self) -> None:
        if self._is_set:
            self.again()
        self.set()

    def is_set(self) -> bool:
        """Whether a signal has arrived."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait at most this many seconds for a signal, and return whether one has arrived."""
        select.select([self._read], [], [], seconds)
        return self._is_set
