"""Tells the code that watches a call when the time limit of the call has passed.

This module does not find out why the call took so long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], object]

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


def limit_passed(what: str) -> None:
    """Call every listener whose `listening` block surrounds this call. If there is no such block, nothing happens.

    `what` is a clause such as "the model did not answer within 45 seconds". Call this function before you end the processes
    that are late, because a listener examines these processes.
    """
    for listener in _listeners.get():
        listener(what)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """In this block, `listener` is called with each clause that is passed to `limit_passed` in the same thread."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
