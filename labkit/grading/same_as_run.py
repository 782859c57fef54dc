"""Compares the functions in a kernel with the functions in the notebook's file, to find out whether the file was saved."""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from labkit.grading.needed_code import needed_statements
from labkit.grading.python_cells import UNPARSABLE, parse
from labkit.grading.submission import Submission

MOST_WRAPPERS = 20
"""At most this many decorators are removed from a function to find the function itself."""


def same_as_run(submission: Submission, function: str, names: Mapping[str, Any]) -> dict[str, bool | None]:
    """Find out whether the file contains the code of a function in the kernel, and of each notebook function that it calls.

    The result maps the name of each function to a bool, or to None if the kernel does not know the function's source. `names`
    are the names in the kernel. The result is empty if the function is not defined in the kernel. Comments, layout, values and
    classes are not compared.
    """
    written = {
        ast.unparse(part)
        for statement in needed_statements(submission, function)
        for part in (statement, *ast.walk(statement))
        if part is statement or isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    sources = {name: _source(found) for name, found in _used(function, names).items()}
    return {name: None if source is None else source in written for name, source in sources.items()}


def _used(function: str, names: Mapping[str, Any]) -> dict[str, FunctionType]:
    """The function with this name, and the functions that it calls directly or indirectly, if the notebook defines them."""
    found: dict[str, FunctionType] = {}
    todo = [function]
    while todo:
        name = todo.pop()
        value = _without_decorators(names.get(name))
        if name not in found and value is not None and value.__globals__ is names:
            found[name] = value
            todo += _names_in(value.__code__)
    return found


def _without_decorators(value: Any) -> FunctionType | None:
    """The function that a person wrote. A Triton kernel stores it as `fn`, and most decorators store it as `__wrapped__`."""
    for _ in range(MOST_WRAPPERS):
        inner = getattr(value, "__wrapped__", None)
        if inner is None and isinstance(value, FunctionType):
            return value
        value = getattr(value, "fn", None) if inner is None else inner
    return None


def _names_in(code: CodeType) -> Iterator[str]:
    """The global names that the code reads. `code.co_names` would also have the names of attributes."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names_in(part)


def _source(function: FunctionType) -> str | None:
    """The source of a function, in the form of `ast.unparse`; None if it is not known."""
    try:
        statements = parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, *UNPARSABLE):
        return None
    return ast.unparse(statements[0]) if statements else None
