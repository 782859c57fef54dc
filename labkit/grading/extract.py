"""Learners' functions out of a notebook, by name; whatever else the notebook does is left aside."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from labkit.errors import InvalidRequest

_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_CELL_MAGICS_THAT_DEFINE = ("%%time", "%%capture", "%%prun")  # %%timeit, %%bash, %%writefile, ... define nothing
_UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


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
    nodes = [node for source in sources for node in _statements(source)]
    return "\n\n".join(ast.unparse(node) for node in nodes if isinstance(node, _DEFINITIONS) or _is_constant(node))


def _statements(source: str) -> list[ast.stmt]:
    """The statements of a cell; its magics are left out, but only where they stop it from being Python: `%` can be."""
    first = (source.split() or [""])[0]
    if first.startswith("%%") and first not in _CELL_MAGICS_THAT_DEFINE:
        return []
    plain = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!", "?")))
    for text in (source, plain):
        try:
            return ast.parse(text).body
        except _UNPARSABLE:
            continue
    return []


def _is_constant(node: ast.stmt) -> bool:
    """Whether this gives a literal value to plain names (not to a part of something that is left aside)."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    try:
        ast.literal_eval(node.value)
    except (*_UNPARSABLE, TypeError):
        return False
    return all(isinstance(target, ast.Name) for target in targets)


def defined_functions(source: str) -> set[str]:
    """Names of the functions at the top level of a source."""
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
