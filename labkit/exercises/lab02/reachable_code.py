"""Finds out whether a function, or anything that it calls, has been edited since it last ran."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import CodeType
from typing import Any

_PLAIN = (int, float, str, bytes)


def reachable_code(function: Any) -> frozenset[Any]:
    """The code of a function, of all functions and kernels that it can reach by name, and the plain values that they use.

    If two calls return equal results, nothing was edited in between.
    """
    found: set[Any] = set()
    pending, seen = [function], set()
    while pending:
        one = pending.pop()
        one = getattr(one, "fn", one)  # a Triton kernel stores the Python function that it was made from
        code = getattr(one, "__code__", None)
        if code is None or id(one) in seen:
            continue
        seen.add(id(one))
        found.add(code)
        for name, value in _used(one, code):
            if isinstance(value, _PLAIN):
                found.add((name, type(value), value))
            else:
                pending.append(value)
    return frozenset(found)


def _used(function: Any, code: CodeType) -> Iterator[tuple[str, Any]]:
    """The names and values of the globals, the closure and the defaults of a function. Names without a value are left out."""
    scope = getattr(function, "__globals__", {})
    yield from ((name, scope[name]) for name in _names(code) if name in scope)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # a closure cell can be empty
            yield name, cell.cell_contents
    yield from (("default", value) for value in function.__defaults__ or ())


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
