"""What a forked child must not do: it has its parent's memory, but neither its threads nor the right to end its processes."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol


class Forkable(Protocol):
    """Something that must change in a forked child before anything is done with it."""

    def after_fork(self) -> None:
        """Called in the child, at once: it may take no lock and start no thread."""


_forkables: weakref.WeakSet[Any] = weakref.WeakSet()
_is_child = False


def is_forked_child() -> bool:
    """Whether this process was forked from one that had imported labkit: OpenMP's threads of the parent are not here, and a
    parallel region would wait for them for ever."""
    return _is_child


def tell(forkable: Forkable) -> None:
    """Call its `after_fork` in every child that is forked while it is there."""
    _forkables.add(forkable)


def by_owner(function: Callable[..., None]) -> Callable[..., None]:
    """The function for the process that is running now; in its forked children it does nothing.

    For what is called when a process or an object ends: servers and ranks are their owner's.
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
