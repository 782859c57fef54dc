"""One input of an exercise, and the plain way to call a function on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One input: what it is in words, and the arguments to call with (fresh ones every time they are made)."""

    label: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def directly(function: Callable[..., Any], case: Case) -> Any:
    """Call a function on a case, here and now."""
    return function(*case.args, **case.kwargs)
