"""A normal form of Python code. A copy of some code, even with its variables renamed, has the same normal form.

Names are replaced by numbers in the order in which they first occur; builtins, attributes and names of keyword arguments stay
as they are. Docstrings, annotations and decorators are left out, and so are comments and the layout of the text.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence

Suite = Sequence[ast.stmt]
"""Consecutive statements in one block."""

_BUILTINS = frozenset(dir(builtins))
_SIZE = "size of the normal form"
"""The attribute of a syntax tree's node that stores the size of the node once the size has been computed."""
_LEFT_OUT = ("decorator_list", "returns", "annotation", "type_comment", "type_params", "kind", "ctx", "simple")


def normal_form(statements: Suite) -> str:
    """The normal form of statements as one string."""
    names: dict[str, str] = {}
    return "\n".join(_written(statement, names) for statement in without_docstring(statements))


def without_docstring(statements: Suite) -> Suite:
    """The statements of a body without its docstring."""
    match statements:
        case [ast.Expr(ast.Constant(value=str())), *rest]:
            return rest
    return statements


def size(node: ast.AST) -> int:
    """The number of parts that a piece of code has. The parts are those nodes of its syntax tree that the normal form keeps."""
    known: int | None = node.__dict__.get(_SIZE)
    if known is None:
        known = 1 + sum(size(part) for _, part in _parts(node))
        node.__dict__[_SIZE] = known
    return known


def bodies(tree: ast.AST) -> Iterator[Suite]:
    """Yield the body of every function and every lambda in a tree. The body of a lambda counts as one `return` statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield without_docstring(node.body)
        elif isinstance(node, ast.Lambda):
            yield [ast.copy_location(ast.Return(node.body), node.body)]


def suites(tree: ast.AST) -> Iterator[Suite]:
    """Yield every block of statements in a tree, including nested blocks and the bodies of lambdas."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                yield without_docstring(block)
        if isinstance(node, ast.Lambda):
            yield [ast.copy_location(ast.Return(node.body), node.body)]


def runs(suite: Suite, least: int) -> Iterator[Suite]:
    """For each statement, yield the shortest run of statements that starts with it and has at least `least` parts."""
    sizes = [size(statement) for statement in suite]
    for first in range(len(suite)):
        total = 0
        for last in range(first, len(suite)):
            total += sizes[last]
            if total >= least:
                yield suite[first : last + 1]
                break


def _parts(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the children of a node that the normal form keeps, each with the name of its field."""
    for name, value in ast.iter_fields(node):
        if name in _LEFT_OUT:
            continue
        if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            value = without_docstring(value)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield name, part


def _written(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return _renamed(node.id, names)
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.Assign([node.target], node.value)
    own = [_renamed(value, names) for value in _own_names(node)]
    own += [repr(value) for name, value in ast.iter_fields(node) if _is_plain(node, name, value)]
    own += [f"{name}={_written(part, names)}" for name, part in _parts(node)]
    return f"{type(node).__name__}({','.join(own)})"


def _own_names(node: ast.AST) -> list[str]:
    """The names that a node itself defines or declares."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            return [name]
        case ast.ExceptHandler(name=str(name)):
            return [name]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return list(names)
    return []


def _is_plain(node: ast.AST, name: str, value: object) -> bool:
    """Whether a field goes into the normal form unchanged, as constants, attributes and names of keyword arguments do."""
    if name in _LEFT_OUT or isinstance(value, list | ast.AST) or (value is None and not isinstance(node, ast.Constant)):
        return False
    return not (name in ("name", "arg", "id") and not isinstance(node, ast.keyword | ast.alias))


def _renamed(name: str, names: dict[str, str]) -> str:
    return name if name in _BUILTINS else names.setdefault(name, f"_{len(names)}")
