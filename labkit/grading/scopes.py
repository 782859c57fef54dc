"""Finds the names that a statement binds and reads when it runs, and the names that the functions in it bind and read when they
are called.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import warnings
from dataclasses import dataclass, field
from typing import Any

_RUN_AT_ONCE = ("listcomp", "setcomp", "dictcomp", "genexpr")
"""The names that a symbol table gives to comprehensions, because each comprehension is a separate scope."""


@dataclass
class Scope:
    """The top-level names of a notebook that a statement uses.

    The statement assigns, deletes or imports the names in `binds`, and needs the names in `reads` when it runs. A function that
    the statement defines needs the names in `reads_later` when it is called, and declares the names in `binds_later` as
    `global`.
    """

    binds: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    reads_later: set[str] = field(default_factory=set)
    binds_later: set[str] = field(default_factory=set)


def scope_of(node: ast.stmt) -> Scope:
    """The names that one top-level statement uses.

    Raises `SyntaxError` if the statement does not compile (such as `return` outside a function).
    """
    scope = Scope()
    _walk(_table(node), scope, later=False, top=True)
    for part in ast.walk(node):
        if isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name) and part.target.id in scope.binds:
            scope.reads.add(part.target.id)
    return scope


def _table(node: ast.stmt) -> symtable.SymbolTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return symtable.symtable(ast.unparse(node), "<cell>", "exec")
        except SyntaxError:  # Jupyter allows `await` at the top level.
            return symtable.symtable(ast.unparse(_Waiting().visit(ast.parse(ast.unparse(node)))), "<cell>", "exec")


def _walk(table: symtable.SymbolTable, scope: Scope, *, later: bool, top: bool = False) -> None:
    for symbol in table.get_symbols():
        name = symbol.get_name()
        is_notebooks = top or symbol.is_global()
        binds = symbol.is_assigned() or symbol.is_imported()
        if is_notebooks and binds:
            (scope.binds_later if later else scope.binds).add(name)
        # If a class body both binds and reads a name, the first read may get the value from outside of the class.
        if symbol.is_referenced() and (is_notebooks or table.get_type() == "class"):
            (scope.reads_later if later else scope.reads).add(name)
    for inner in table.get_children():
        runs_later = str(inner.get_type()) == "function" and inner.get_name() not in _RUN_AT_ONCE
        _walk(inner, scope, later=later or runs_later)


class _Waiting(ast.NodeTransformer):
    """Removes `await` and `async` from code. The names in the code stay the same."""

    def visit_Await(self, node: ast.Await) -> Any:
        return self.visit(node.value)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> Any:
        self.generic_visit(node)
        return ast.For(node.target, node.iter, node.body, node.orelse, None)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> Any:
        self.generic_visit(node)
        return ast.With(node.items, node.body, None)

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        self.generic_visit(node)
        return ast.comprehension(node.target, node.iter, node.ifs, 0)


def cannot_fail(node: ast.stmt) -> set[str]:
    """The names that this statement always binds. Their earlier values are not needed."""
    match node:
        case (
            ast.FunctionDef(name=name, args=arguments, decorator_list=[])
            | ast.AsyncFunctionDef(name=name, args=arguments, decorator_list=[])
        ):
            return {name} if _is_plain_signature(node, arguments) else set()
        case ast.Assign(targets=targets, value=value) if _is_plain(value):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value, annotation=kind) if _is_plain(kind):
            return {name} if _is_plain(value) else set()
    return set()


def _is_plain_signature(node: ast.FunctionDef | ast.AsyncFunctionDef, arguments: ast.arguments) -> bool:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    hints = [argument.annotation for argument in every if argument is not None]
    values = [*arguments.defaults, *arguments.kw_defaults, *hints, node.returns]
    return all(value is None or _is_plain(value) for value in values)


def _is_plain(value: ast.expr) -> bool:
    """Whether evaluating this expression can never fail."""
    match value:
        case ast.Constant():
            return True
        case ast.Name(id=name):
            return hasattr(builtins, name)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return all(map(_is_plain, items))
        case ast.Lambda(args=arguments):
            return all(default is None or _is_plain(default) for default in [*arguments.defaults, *arguments.kw_defaults])
    return False
