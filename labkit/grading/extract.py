"""Learners' functions out of a notebook, by name; whatever else the notebook does is left aside."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from labkit.errors import InvalidRequest

_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def definitions(path: Path) -> str:
    """The imports, functions, classes and plain constants of all code cells, as one source; the last of a name wins.

    Cells that are not Python (or hold a syntax error) are left out, so one broken cell spoils itself only. Raises
    `InvalidRequest` naming a file that is no notebook.
    """
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path} is no notebook: {error!r}") from error
    kept: list[str] = []
    for source in sources:
        try:
            tree = ast.parse("\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))))
        except SyntaxError:
            continue
        kept += [ast.unparse(node) for node in tree.body if isinstance(node, _DEFINITIONS) or _is_constant(node)]
    return "\n\n".join(kept)


def _is_constant(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Assign):
        return False
    try:
        ast.literal_eval(node.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def defined_functions(source: str) -> set[str]:
    """Names of the functions at the top level of a source."""
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
