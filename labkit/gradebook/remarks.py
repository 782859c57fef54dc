"""Remarks on the form of a notebook: copied functions, check cells that are missing or retyped, a leftover `raise`, magics.

The remarks change no grade; they help people to understand a verdict. They are guesses from the text of the notebook: no code
is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from labkit.exercises.exercise import Exercise
from labkit.grading.notebook_file import FileCell
from labkit.grading.python_cells import UNPARSABLE, parse

_MAGIC = re.compile(r"^\s*(?:%|!)\w", re.MULTILINE)


def remarks_on(cells: Sequence[FileCell], exercises: Sequence[Exercise]) -> list[str]:
    """The remarks on a notebook that defines the functions of these exercises."""
    return [*_on_definitions(cells, exercises), *_on_check_cells(cells, exercises), *_on_magics(cells)]


def _on_definitions(cells: Sequence[FileCell], exercises: Sequence[Exercise]) -> Iterator[str]:
    places: list[tuple[int, str]] = []
    for exercise in exercises:
        name = exercise.function
        found = [cell for cell in cells if cell.is_code and re.search(rf"^def {name}\s*\(", cell.text, re.MULTILINE)]
        if len(found) > 1:
            yield f"{name} is defined in {_numbered(found)}; the last definition that runs counts."
        if found:
            places.append((found[-1].number, name))
            if _has_leftover(found[-1].text, name):
                yield f"{name} has a body and still contains `raise NotImplementedError`; remove this line."
    for (cell, name), (next_cell, next_name) in pairwise(places):
        if next_cell < cell:
            said = f"{next_name} is defined before {name}, which is not the order of the course"
            yield f"{said}; the cells were run in the notebook's order."


def _has_leftover(text: str, name: str) -> bool:
    """Whether the body of the function `name` contains other code but still raises NotImplementedError."""
    try:
        functions = [node for node in parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name]
    except UNPARSABLE:
        return False
    if not functions:
        return False
    body = [node for node in functions[-1].body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return len(body) > 1 and any(isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node) for node in body)


def _on_check_cells(cells: Sequence[FileCell], exercises: Sequence[Exercise]) -> Iterator[str]:
    missing = []
    for exercise in exercises:
        call = re.compile(rf"\bcheck\(\s*{exercise.function}\b")
        found = [cell for cell in cells if call.search(cell.text)]
        code = [cell for cell in found if cell.is_code]
        if found and not code:
            place = f"The check of {exercise.function} in {_numbered(found)} is not in a code cell"
            yield f"{place}; the grade does not depend on it."
        elif len(code) > 1:
            yield f"The check of {exercise.function} is in {_numbered(code)}; the grade does not depend on it."
        elif not found:
            missing.append(exercise.function)
    if missing:
        yield f"These functions have no check cell: {', '.join(missing)}; the grade does not depend on it."


def _on_magics(cells: Sequence[FileCell]) -> Iterator[str]:
    found = [cell for cell in cells if cell.is_code and _MAGIC.search(cell.text)]
    if found:
        yield f"Magics or shell commands are in {_numbered(found)}; they were read as Jupyter reads them."


def _numbered(cells: Sequence[FileCell]) -> str:
    """The numbers of these cells: "cell 3", or "cells 3 and 7"."""
    numbers = [str(cell.number) for cell in cells]
    return f"cell {numbers[0]}" if len(numbers) == 1 else f"cells {', '.join(numbers[:-1])} and {numbers[-1]}"
