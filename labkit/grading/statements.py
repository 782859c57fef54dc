"""The top-level statements of a notebook in the order of *Run All*, each with the names that it binds, reads and changes."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from labkit.grading.changes import Changes, changes_of
from labkit.grading.python_cells import UNPARSABLE, PythonCell, code_of_magics, parse
from labkit.grading.scopes import Scope, cannot_fail, scope_of


@dataclass(frozen=True)
class Statement:
    """A statement: its cell, its position in the cell (from 0), its syntax tree, and the effects that its source text shows.

    `replaces` are the names whose earlier values are no longer needed after the statement. If the statement defines functions,
    `inner` contains the changes that these functions make when they are called, and `parameters` contains their parameters.
    """

    cell: int
    index: int
    node: ast.stmt
    scope: Scope
    changes: Changes
    inner: Changes
    parameters: frozenset[str]
    replaces: frozenset[str]

    @property
    def binds(self) -> set[str]:
        """The names that the statement assigns, deletes or imports."""
        return self.scope.binds

    @property
    def defines(self) -> set[str]:
        """The names that the statement binds to functions, with `def` at any depth or with `lambda`."""
        found = {part.name for part in ast.walk(self.node) if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
        for part in ast.walk(self.node):
            if isinstance(part, ast.Assign) and isinstance(part.value, ast.Lambda):
                found |= {target.id for target in part.targets if isinstance(target, ast.Name)}
        return found & self.binds

    @property
    def packages(self) -> dict[str, str]:
        """The package of each imported name. For example, `import torch.nn.functional as F` gives `F` the package torch."""
        found: dict[str, str] = {}
        for part in ast.walk(self.node):
            match part:
                case ast.Import(names=names):
                    found |= {(one.asname or one.name).split(".")[0]: one.name.split(".")[0] for one in names}
                case ast.ImportFrom(module=str() as module, names=names):
                    found |= {one.asname or one.name: module.split(".")[0] for one in names}
        return found

    @property
    def is_future(self) -> bool:
        """Whether the statement is `from __future__ import ...`, which affects how all later code is compiled."""
        return isinstance(self.node, ast.ImportFrom) and self.node.module == "__future__"


def statements_of(cells: list[PythonCell]) -> list[Statement]:
    """Every statement of these cells, in order, except statements that cannot be compiled."""
    found = []
    for cell in cells:
        for index, node in enumerate(parse(cell.source).body):
            try:
                found.append(_statement(cell.number, index, node))
            except UNPARSABLE:
                continue
    return found


def _statement(cell: int, index: int, node: ast.stmt) -> Statement:
    scope, nodes = scope_of(node), [node, *code_of_magics(node)]
    for more in nodes[1:]:
        also = scope_of(more)
        scope.binds |= also.binds
        scope.reads |= also.reads
        scope.reads_later |= also.reads_later
    parameters = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
    bodies = [inner for part in ast.walk(node) for inner in _body(part)]
    return Statement(
        cell, index, node, scope, changes_of(nodes), changes_of(bodies), frozenset(parameters), frozenset(cannot_fail(node))
    )


def _body(part: ast.AST) -> list[ast.stmt]:
    if isinstance(part, ast.Lambda):
        return [ast.Expr(part.body)]
    return part.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) else []
