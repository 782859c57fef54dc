"""Delays Ctrl-C, or Stop in a notebook, during work that must not stop half-way.

`with watched:` installs a signal handler, once per call or step. `with held:` inside a `watched` block delays an interruption
until the `held` block ends. `held` only changes a counter, so it is cheap. Signals interrupt only the main thread, so `watched`
and `held` do nothing in other threads.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from typing import Any

try:
    # The C module that `signal` wraps. `signal` is twenty times as slow, because it converts numbers to enumerations and back.
    # The conversions would take longer than everything else that this file does in a step.
    _signals: Any = importlib.import_module("_signal")
except ImportError:
    _signals = signal
_MAIN = threading.main_thread().ident
_SIGINT = int(signal.SIGINT)


class _Watch:
    """The handler that is installed while the main thread is inside `watched`.

    Outside `held` the handler calls the previous handler.
    """

    def __init__(self) -> None:
        self.before: Callable[..., Any] | None = None  # the previous handler; None while this handler is not installed
        self.depth = 0  # the number of nested `watched` and `held` blocks
        self.held = 0  # the number of nested `held` blocks
        self.pending: tuple[Any, ...] | None = None

    def __call__(self, *given: Any) -> None:
        if self.held or self.before is None:
            self.pending = given
        else:
            self.before(*given)

    def enter(self) -> None:
        """Install this handler if it is not installed yet and the current handler is a Python function.

        A handler that is not a Python function was set in C, for example by a server, and could not be restored later.
        """
        self.depth += 1
        if self.before is None and callable(before := _signals.getsignal(_SIGINT)) and before is not self:
            _signals.signal(_SIGINT, self)
            self.before = before

    def leave(self) -> None:
        """Restore the previous handler after the outermost block. After the last `held` block, deliver a delayed signal."""
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
"""`with watched:` installs the handler once, so that `held` inside the block is cheap."""

held = _Held()
"""`with held:` delays an interruption until the end of the block."""
