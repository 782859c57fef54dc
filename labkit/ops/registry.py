"""Operations by name: what runs when the model asks for `layer_norm`, and how someone else's function takes its place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from labkit.errors import InvalidRequest

P = ParamSpec("P")
R = TypeVar("R")

_OWN: dict[str, Callable[..., Any]] = {}
_SWAPPED: dict[str, Callable[..., Any]] = {}


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Register a function as the operation of its name; calls go to whatever `use` has put in its place."""
    name = function.__name__
    _OWN[name] = function

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        chosen: Callable[P, R] = _SWAPPED.get(name, function)
        return chosen(*args, **kwargs)

    return call


class use:  # noqa: N801 - a verb at the place of call: `with ops.use(layer_norm=mine):`
    """Put functions in the place of operations: `ops.use(layer_norm=mine)`, at once and until `restore()`.

    As a context manager (`with ops.use(...):`) the former ones return at the end. Engines that are running take the new
    functions with their next step, and go operation by operation while any is swapped. Each function is called exactly
    as the operation it replaces. Raises `InvalidRequest` for a name that is no operation or a value that is no function.
    """

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            if name not in _OWN:
                raise InvalidRequest(f"there is no operation {name!r}; the operations are {', '.join(sorted(_OWN))}")
            if not callable(function):
                raise InvalidRequest(f"operation {name} was given {function!r}; give a function of the same arguments")
        self._before = {name: _SWAPPED.get(name) for name in functions}
        _SWAPPED.update(functions)

    def restore(self) -> None:
        """Put back what ran before; a second call does nothing."""
        for name, function in self._before.items():
            if function is None:
                _SWAPPED.pop(name, None)
            else:
                _SWAPPED[name] = function
        self._before = {}

    def __enter__(self) -> use:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()


def swapped() -> list[str]:
    """The operations in whose place something else runs now."""
    return sorted(_SWAPPED)


def replacements() -> dict[str, Callable[..., Any]]:
    """What runs now in the place of which operation."""
    return dict(_SWAPPED)
