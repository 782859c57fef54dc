"""Makes the two notebooks of a lab from its source: the learner's notebook with stubs, and the solved notebook. This module
runs no code and writes no files.

The source is a script in the percent format in `solutions/`. It contains these marks:

    # {{exercise lab01.kv_bytes}}      if a Markdown cell has only this line: the exercise's heading replaces it
    # BEGIN SOLUTION                   in a function's body: for the learner, `raise NotImplementedError("name")` replaces
    # END SOLUTION                     the lines between the two marks
    # BEGIN SOLUTION guess = None      outside a function: for the learner, `guess = None` replaces the lines up to the end mark

The marks of the core path are in `labkit.grading.core_marks`.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import jupytext
import nbformat

from labkit.errors import InvalidRequest
from labkit.exercises.registry import exercise as find
from labkit.grading.core_marks import fill_core_marks
from labkit.grading.nbgrader_cells import mark_cells

KERNEL = {
    "kernelspec": {"display_name": "labkit", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_EXERCISE = re.compile(r"^\{\{exercise ([\w.]+)\}\}$")
_BEGIN = re.compile(r"^(\s*)# BEGIN SOLUTION ?(.*)$")
_FUNCTION = re.compile(r"^\s*(?:async )?def (\w+)\(")
_ASKED = re.compile(r'^ +raise NotImplementedError\("(\w+)"\)$', re.MULTILINE)
_END = re.compile(r"^\s*# END SOLUTION$")


def student_notebook(source: str) -> Any:
    """The learner's notebook. Headings are filled in, solutions are cut out, and nothing is executed."""
    return _notebook(source, solved=False)


def solved_notebook(source: str) -> Any:
    """The solved notebook, which is not executed yet."""
    return _notebook(source, solved=True)


def _notebook(source: str, *, solved: bool) -> Any:
    notebook = jupytext.reads(source, fmt="py:percent")
    counts: dict[str, int] = {}
    stubs: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := _EXERCISE.match(cell.source.strip())):
            exercise = find(match[1])
            cell.source = exercise.heading()
            cell.metadata = {"labkit": {"exercise": exercise.name}}
        else:
            cell.metadata = {}
            if cell.cell_type == "code":
                cell.source = cut_solutions(cell.source, keep=solved)
                stubs |= dict.fromkeys(_ASKED.findall(cell.source), cell.source)
    fill_core_marks(notebook.cells)
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        counts[digest] = counts.get(digest, 0) + 1
        cell.id = f"{digest}-{counts[digest]}"
    mark_cells(notebook.cells)
    notebook.metadata = {**KERNEL, "labkit": {"cells_sha256": cells_digest(notebook)}}
    if not solved:
        notebook.metadata["labkit"]["stubs"] = stubs  # `labkit reset` reads them
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def cut_solutions(source: str, *, keep: bool) -> str:
    """The code cell without the marks. If `keep` is true, it contains the solution; otherwise, it contains the learner's stub.

    Raises `InvalidRequest` if the marks do not come in pairs, or if a solution outside a function names no replacement.
    """
    lines: list[str] = []
    inside = False
    around: list[tuple[int, str]] = []  # For each function around this line, outermost first: its indentation and its name.
    for line in source.splitlines():
        indentation = len(line) - len(line.lstrip())
        if line.strip() and not inside:
            around = [(depth, name) for depth, name in around if depth < indentation]
        if (match := _FUNCTION.match(line)) and not inside:
            around.append((indentation, match[1]))
        if begin := _BEGIN.match(line):
            if inside or not (begin[2] or around):
                raise InvalidRequest(
                    f"a mark BEGIN SOLUTION or END SOLUTION has no partner, or names no replacement: {line!r} in\n{source}"
                )
            inside = True
            if not keep:
                lines.append(begin[1] + (begin[2] or f'raise NotImplementedError("{around[-1][1]}")'))
        elif _END.match(line):
            if not inside:
                raise InvalidRequest(f"END SOLUTION without BEGIN SOLUTION in\n{source}")
            inside = False
        elif keep or not inside:
            lines.append(line)
    if inside:
        raise InvalidRequest(f"BEGIN SOLUTION without END SOLUTION in\n{source}")
    return "\n".join(lines)


def cells_digest(notebook: Any) -> str:
    """The SHA-256 of everything that a person can edit in a notebook: the kinds and sources of all cells."""
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()
