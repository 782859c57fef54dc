"""Rules for forked children: a child has its parent's memory, but not its threads, and must not end the parent's processes."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol


class Forkable(Protocol):
    """An object that must be changed in a forked child before the child uses it."""

    def after_fork(self) -> None:
        """Called in the child right after the fork. The method must not take a lock or start a thread."""


_forkables: weakref.WeakSet[Any] = weakref.WeakSet()
_is_child = False


def is_forked_child() -> bool:
    """Whether this process was forked from a process that had imported labkit.

    A forked child does not have its parent's threads, such as the threads of OpenMP and of the native library, and code that
    uses them would wait for ever.
    """
    return _is_child


def count_as_new() -> None:
    """Treat this forked child like a process that was not forked.

    Call this only if the parent has done nothing but import modules: the parent must not have started a thread, or computed
    anything with torch or with the native library.
    """
    global _is_child
    _is_child = False


def tell(forkable: Forkable) -> None:
    """Register an object. Its method `after_fork` is called in every child process that is forked while the object exists."""
    _forkables.add(forkable)


def by_owner(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a function so that it runs only in the current process and does nothing in forked children.

    Use this decorator for a function that runs when a process or an object ends and then ends servers or ranks: only the
    process that started the servers and ranks may end them.
    """
    owner = os.getpid()

    @functools.wraps(function)
    def call(*given: Any) -> None:
        if os.getpid() == owner:
            function(*given)

    return call


def _in_child() -> None:
    global _is_child
    _is_child = True
    for forkable in list(_forkables):
        forkable.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
