"""A function as text and plain values, for a process that does not have it: no pickle, nothing runs until it is called."""

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
    """What `unpack` makes the function of again, as JSON; tensors that it uses go into `tensors`.

    A function of a module is named. One of a notebook or a script goes along as source, with what it uses: functions, plain
    values and names of modules. Raises `InvalidRequest` for what has neither a name nor a source of its own.
    """
    if _is_importable(function):
        return {"module": function.__module__, "name": function.__qualname__}
    pieces: dict[str, str] = {}
    imports: dict[str, str] = {}
    values: dict[str, Any] = {}
    _collect(function, pieces, imports, values, tensors)
    return {"name": function.__name__, "imports": imports, "values": values, "functions": pieces}


def unpack(packed: dict[str, Any], tensors: dict[str, Tensor]) -> Callable[..., Any]:
    """The function again. Raises what the import of its modules, or its definition, raises."""
    if "module" in packed:
        found: Any = importlib.import_module(packed["module"])
        for part in packed["name"].split("."):
            found = getattr(found, part)
        return found  # type: ignore[no-any-return]
    scope: dict[str, Any] = {"__name__": "launched"}
    for line in packed["imports"].values():
        exec(line, scope)
    scope |= {name: decode(value, tensors) for name, value in packed["values"].items()}
    for name, source in packed["functions"].items():
        place = f"<{name}>"  # so that a traceback can quote the line
        linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
        exec(compile(source, place, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True), scope)
    return scope[packed["name"]]  # type: ignore[no-any-return]


def _collect(
    function: Callable[..., Any],
    pieces: dict[str, str],
    imports: dict[str, str],
    values: dict[str, Any],
    tensors: dict[str, Tensor],
) -> None:
    source, tree = _source_of(function)
    pieces[function.__name__] = ""  # it may call itself
    inner = inspect.getclosurevars(function)
    known = getattr(function, "__globals__", {}) | dict(inner.nonlocals)
    for name in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
        if name in known and name not in pieces and not hasattr(builtins, name):
            _take(name, known[name], pieces, imports, values, tensors)
    pieces[function.__name__] = pieces.pop(function.__name__) or source  # behind those that it uses


def _take(
    name: str, value: Any, pieces: dict[str, str], imports: dict[str, str], values: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    if isinstance(value, ModuleType):
        imports[name] = f"import {value.__name__} as {name}"
    elif _is_importable(value):
        imports[name] = f"from {value.__module__} import {value.__qualname__} as {name}"
    elif isinstance(value, FunctionType):
        _collect(value, pieces, imports, values, tensors)
    else:
        coded = encode(value, tensors)
        if not isinstance(decode(coded, tensors), Foreign):
            values[name] = coded


def _source_of(function: Callable[..., Any]) -> tuple[str, ast.AST]:
    name = getattr(function, "__name__", repr(function))
    try:
        source = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError) as error:
        raise InvalidRequest(f"{name} has no source that could be sent to the ranks ({error}); define it by `def`") from error
    if not isinstance(tree.body[0], ast.FunctionDef):
        raise InvalidRequest(f"{name} is no function that was defined by `def`; the ranks are sent its source")
    return source, tree


def _is_importable(value: Any) -> bool:
    """Whether another process finds it by module and name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or "." in name:
        return False
    home = sys.modules.get(module)
    return home is not None and getattr(home, "__spec__", None) is not None and getattr(home, name, None) is value
