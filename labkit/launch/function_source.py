"""Sends a function as source text and plain values, without pickle, to a process that does not have the function.

No part of a function's body runs until the function is called.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import importlib
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor

from labkit.errors import InvalidRequest
from labkit.plain_values import Foreign, decode, encode


def pack(function: Callable[..., Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Turn a function into JSON, from which `unpack` rebuilds the function.

    Tensors that the function uses are added to `tensors`.

    A function of an importable module is sent by name. A function of a notebook or a script is sent as source, together with
    the functions, plain values and names of modules that it uses. Two different functions with the same name are kept apart.
    Raises `InvalidRequest` for a function that cannot be imported and has no source text.
    """
    if _is_importable(function):
        return {"module": function.__module__, "name": function.__qualname__}
    packing = _Packing(tensors)
    packing.function(function)
    return {"scopes": packing.scopes, "functions": packing.functions}


def unpack(packed: dict[str, Any], tensors: dict[str, Tensor]) -> Callable[..., Any]:
    """Rebuild the function. If its modules cannot be imported or its definition fails, the exception is raised unchanged."""
    if "module" in packed:
        found: Any = importlib.import_module(packed["module"])
        for part in packed["name"].split("."):
            found = getattr(found, part)
        return found  # type: ignore[no-any-return]
    made: dict[int, Callable[..., Any]] = {}
    scopes: list[dict[str, Any]] = []
    for coded in packed["scopes"]:
        scope: dict[str, Any] = {"__name__": "launched"}
        for line in coded["imports"].values():
            exec(line, scope)
        scopes.append(scope | {name: decode(value, tensors) for name, value in coded["values"].items()})
    for number in packed["functions"]:
        _define(int(number), packed, scopes, made)
    for coded, scope in zip(packed["scopes"], scopes, strict=True):
        scope |= {name: made[number] for name, number in coded["functions"].items()}
    return made[0]


def left_behind(packed: dict[str, Any]) -> dict[str, str]:
    """Return the names of values that the function uses but that could not be sent, each with "class" or its type's name."""
    return {name: kind for scope in packed.get("scopes", ()) for name, kind in scope["left"].items()}


def _define(number: int, packed: dict[str, Any], scopes: list[dict[str, Any]], made: dict[int, Callable[..., Any]]) -> None:
    """Run a function's definition in its scope.

    The functions that it uses are defined before the function itself, because a decorator or default value may call them.
    """
    name, source, place, at = (packed["functions"][str(number)][key] for key in ("name", "source", "scope", "uses"))
    if number in made:
        return
    made[number] = lambda *given: None  # the function may call itself, or a function that calls it
    for other in at:
        _define(other, packed, scopes, made)
    coded, scope = packed["scopes"][place], scopes[place]
    scope |= {known: made[other] for known, other in coded["functions"].items() if other in made}
    label = f"<{name}>" if number == 0 else f"<{name} {number}>"  # so that a traceback can show the source line
    linecache.cache[label] = (len(source), None, source.splitlines(keepends=True), label)
    exec(compile(source, label, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True), scope)
    made[number] = scope[name]


class _Packing:
    """Collects functions and numbers them. Functions of one module share a scope; a function with a closure has its own."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.functions: dict[str, dict[str, Any]] = {}
        self.scopes: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self._scope_numbers: dict[int, int] = {}

    def function(self, function: Callable[..., Any]) -> int:
        """Add a function and everything it uses; returns the function's number."""
        if id(function) in self._numbers:
            return self._numbers[id(function)]
        source, tree = _source_of(function)
        number = self._numbers[id(function)] = len(self._numbers)
        own = dict(inspect.getclosurevars(function).nonlocals)
        known = getattr(function, "__globals__", {}) | own
        place = self._scope(id(function) if own else id(getattr(function, "__globals__", None)))
        uses: list[int] = []
        self.functions[str(number)] = {"name": tree.name, "source": source, "scope": place, "uses": uses}
        for name in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
            if name in known and not hasattr(builtins, name):
                uses += self._take(name, known[name], self.scopes[place])
        return number

    def _scope(self, key: int) -> int:
        if key not in self._scope_numbers:
            self._scope_numbers[key] = len(self.scopes)
            self.scopes.append({"imports": {}, "values": {}, "functions": {}, "left": {}})
        return self._scope_numbers[key]

    def _take(self, name: str, value: Any, scope: dict[str, Any]) -> list[int]:
        """Put a named value into the scope. Returns a list with the value's number if it is a function that must be sent."""
        if isinstance(value, ModuleType):
            scope["imports"][name] = f"import {value.__name__} as {name}"
        elif _is_importable(value):
            scope["imports"][name] = f"from {value.__module__} import {value.__qualname__} as {name}"
        elif isinstance(value, FunctionType):
            number = scope["functions"][name] = self.function(value)
            return [number]
        elif name not in scope["values"]:
            coded = encode(value, self.tensors)
            if isinstance(decode(coded, self.tensors), Foreign):
                scope["left"][name] = "class" if isinstance(value, type) else type(value).__name__
            else:
                scope["values"][name] = coded
        return []


def _source_of(function: Callable[..., Any]) -> tuple[str, ast.FunctionDef]:
    name = getattr(function, "__name__", repr(function))
    try:
        source = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError) as error:
        raise InvalidRequest(f"{name} has no source that could be sent to the ranks ({error}); define it with `def`") from error
    if not isinstance(tree.body[0], ast.FunctionDef):
        raise InvalidRequest(f"{name} was not defined by `def`; only the source of such a function can be sent to the ranks")
    return source, tree.body[0]


def _is_importable(value: Any) -> bool:
    """Whether another process can import this value by its module and name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or "." in name:
        return False
    home = sys.modules.get(module)
    return home is not None and getattr(home, "__spec__", None) is not None and getattr(home, name, None) is value
