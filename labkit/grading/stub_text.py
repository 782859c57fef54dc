"""Replaces a learner's answer with the stub of the exercise. Everything else in the notebook stays as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from labkit.errors import InvalidRequest
from labkit.grading.notebook_file import FileCell
from labkit.grading.python_cells import UNPARSABLE, parse

_MAGIC_LINE = re.compile(r"^(\s*)[%!?].*$", re.MULTILINE)
_DEFINITION = re.compile(r"^(?:async\s+)?(?:def|class)\s+(\w+)", re.MULTILINE)

Lines = tuple[int, int]
"""The first line of a definition with its decorators, counted from 0, and the line after its last line."""


def with_stub(cells: Sequence[FileCell], stub: str, function: str) -> dict[int, str]:
    """The new text of each cell that changes, by the number of the cell. Only code cells are changed.

    For each function in the stub, the last definition of this name in the notebook is replaced. A helper of the stub that the
    notebook does not define is added below the function. If the function's cell is not valid Python, the cell is replaced as a
    whole. Raises `InvalidRequest` if no cell defines the function, or if its cell is not valid Python and defines other
    functions too.
    """
    texts = {cell.number: cell.text for cell in cells if cell.is_code}
    own = defining_cells(cells, function)
    if not own:
        raise InvalidRequest(
            f"no code cell defines {function} at its top level; in the notebook, "
            f'reset("{function}") shows the stub in a new cell'
        )
    parts = _definitions(stub) or {}
    if _definitions(texts[own[-1]]) is None:
        others = sorted(set(_DEFINITION.findall(texts[own[-1]])) - parts.keys())
        if others:
            raise InvalidRequest(
                f"cell {own[-1]} is not valid Python, and it also defines {', '.join(others)}; move these definitions to "
                "another cell, or correct the error first"
            )
        texts[own[-1]] = stub
    stub_lines = stub.split("\n")
    for name, (first, end) in parts.items():
        part = stub_lines[first:end]
        place = next((number for number in reversed(texts) if name in (_definitions(texts[number]) or {})), None)
        if place is None:
            texts[own[-1]] = "\n".join([texts[own[-1]], "", "", *part])
            continue
        lines = texts[place].split("\n")
        old_first, old_end = (_definitions(texts[place]) or {})[name]
        texts[place] = "\n".join([*lines[:old_first], *part, *lines[old_end:]])
    return {cell.number: texts[cell.number] for cell in cells if cell.is_code and texts[cell.number] != cell.text}


def defining_cells(cells: Sequence[FileCell], function: str) -> list[int]:
    """The numbers of the code cells that define the function at their top level, including cells with a syntax error."""
    found = []
    for cell in cells:
        names = _definitions(cell.text) if cell.is_code else {}
        if function in (set(_DEFINITION.findall(cell.text)) if names is None else names):
            found.append(cell.number)
    return found


def _definitions(text: str) -> dict[str, Lines] | None:
    """The places of the names that a cell defines at its top level; None if it is not valid Python, apart from magics."""
    for source in (text, _MAGIC_LINE.sub(r"\1pass", text)):
        try:
            return {name: lines for statement in parse(source).body for name, lines in _places(statement)}
        except UNPARSABLE:
            continue
    return None


def _places(statement: ast.stmt) -> list[tuple[str, Lines]]:
    end = statement.end_lineno or statement.lineno
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            first = min([statement.lineno, *(decorator.lineno for decorator in statement.decorator_list)])
            return [(name, (first - 1, end))]
        case ast.Assign(targets=targets):
            return [(target.id, (statement.lineno - 1, end)) for target in targets if isinstance(target, ast.Name)]
    return []
