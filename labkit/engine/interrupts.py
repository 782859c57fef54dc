"""Ctrl-C, or a notebook's Stop, waits where something must not be left half done.

`with watched:` puts a handler in place, once a call or a step; the sections inside of it, `with held:`, only count. Only the
main thread is interrupted by signals; in others nothing happens here.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from typing import Any

try:
    # CPython's own module under `signal`, which turns numbers into enumerations and back and takes twenty times as long: more
    # than all else that a step does here.
    _signals: Any = importlib.import_module("_signal")
except ImportError:
    _signals = signal
_MAIN = threading.main_thread().ident
_SIGINT = int(signal.SIGINT)


class _Watch:
    """The handler that is in place while the main thread is in `watched`: outside of `held` it calls the one before."""

    def __init__(self) -> None:
        self.before: Callable[..., Any] | None = None  # None: not in place
        self.depth = 0  # blocks of either kind that the main thread is in
        self.held = 0  # those of `held`
        self.pending: tuple[Any, ...] | None = None

    def __call__(self, *given: Any) -> None:
        if self.held or self.before is None:
            self.pending = given
        else:
            self.before(*given)

    def enter(self) -> None:
        """Put it in place, unless it is; nor where the handler is none of Python's: in a server it could not be put back."""
        self.depth += 1
        if self.before is None and callable(before := _signals.getsignal(_SIGINT)) and before is not self:
            _signals.signal(_SIGINT, self)
            self.before = before

    def leave(self) -> None:
        """At the end of the outermost block put the handler before back; what was held back comes when nothing is held."""
        self.depth -= 1
        before = self.before
        if not self.depth and before is not None:
            _signals.signal(_SIGINT, before)
            self.before = None
        if not self.held and self.pending is not None:
            pending, self.pending = self.pending, None
            if before is not None:
                before(*pending)


_WATCH = _Watch()


class _Watched:
    def __enter__(self) -> None:
        if threading.get_ident() == _MAIN:
            _WATCH.enter()

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() == _MAIN:
            _WATCH.leave()


class _Held:
    def __enter__(self) -> None:
        if threading.get_ident() == _MAIN:
            _WATCH.held += 1
            _WATCH.enter()

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() == _MAIN:
            _WATCH.held -= 1
            _WATCH.leave()


watched = _Watched()
"""While it lasts, `held` is cheap."""

held = _Held()
"""An interruption waits for the end of the block, and comes then."""
