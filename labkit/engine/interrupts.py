"""Ctrl-C, or a notebook's Stop, waits where something must not be left half done.

Changing the handler takes microseconds, so it is done once a call (`watched`), and the sections inside of it (`held`) only
set a flag. Only the main thread is interrupted by signals; in others nothing happens here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


class _Watch:
    """The handler that is in place while the main thread is in `watched`: outside of `held` it calls the one before."""

    def __init__(self) -> None:
        self.before: Callable[..., Any] | None = None  # None: not in place
        self.held = 0  # sections that the main thread is in
        self.pending: tuple[Any, ...] | None = None

    def __call__(self, *given: Any) -> None:
        if self.held or self.before is None:
            self.pending = given
        else:
            self.before(*given)


_WATCH = _Watch()
_MAIN = threading.main_thread().ident


class watched:  # noqa: N801 - a verb at the place of call
    """While it lasts, `held` is cheap. Not where the handler is none of Python's: in a server it could not be put back."""

    def __enter__(self) -> None:
        self._mine = False
        if threading.get_ident() == _MAIN and _WATCH.before is None and callable(before := signal.getsignal(signal.SIGINT)):
            self._mine = True
            signal.signal(signal.SIGINT, _WATCH)
            _WATCH.before = before

    def __exit__(self, *_: object) -> None:
        if self._mine:
            before = _WATCH.before
            signal.signal(signal.SIGINT, before)
            pending, _WATCH.pending, _WATCH.before = _WATCH.pending, None, None
            if pending is not None and before is not None:
                before(*pending)


class held(watched):  # noqa: N801
    """An interruption waits for the end of the block, and comes then."""

    def __enter__(self) -> None:
        super().__enter__()
        self._main = threading.get_ident() == _MAIN
        if self._main:
            _WATCH.held += 1

    def __exit__(self, *_: object) -> None:
        if self._main:
            _WATCH.held -= 1
        super().__exit__()
        if self._main and not _WATCH.held and _WATCH.pending is not None and _WATCH.before is not None:
            pending, _WATCH.pending = _WATCH.pending, None
            _WATCH.before(*pending)
