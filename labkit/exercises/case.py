"""One input of an exercise, and a plain call of a function on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One input: a label in words, and the arguments of the call. Cases are made anew for each use."""

    label: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def directly(function: Callable[..., Any], case: Case) -> Any:
    """Call a function on a case, in this process."""
    return function(*case.args, **case.kwargs)
