"""Finds which existing objects a statement changes: `CONFIG["a"] = 1`, `items.append(3)`, `torch.set_grad_enabled(False)`.

The result is an estimate from the source text; nothing is run. The estimate may contain too many changes. Then a statement runs
although it is not needed, which does no harm.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ONLY_SHOW = frozenset(
    ("print", "display", "pprint", "help", "check", "hint", "passed", "predicted", "made", "progress_panel", "interact", "show")
) | frozenset(("head", "describe", "plot", "info", "savefig", "keys", "values", "items", "copy", "assert_close", "sleep"))
"""Functions and methods that do not change their arguments, including the functions of `labkit.lab`."""
_CHANGES_ITS_OBJECT = frozenset(
    ("append", "appendleft", "extend", "insert", "pop", "popitem", "popleft", "remove", "clear", "update", "setdefault")
) | frozenset(("add", "discard", "sort", "reverse", "write"))
_CHANGES_ITS_ARGUMENT = frozenset(("setattr", "delattr", "next"))
_SETS_A_MODULE = re.compile(
    r"(set|seed|manual_seed|enable|disable|use|simplefilter|filter|register|insert|append|extend|update|setdefault|add|remove"
    r"|pop|clear|config|basicConfig|patch|install)"
)
_ANYTHING = frozenset(("exec", "globals"))
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Call:
    """A call of a function by its plain name, with the names in its arguments."""

    function: str
    given: frozenset[str]


@dataclass
class Changes:
    """What a piece of code changes when it runs.

    - `objects`: the names whose objects the code changes.
    - `modules`: the names on which the code calls a setter (`torch.set_...`). These may be modules.
    - `called` and `passed`: the names that may be changed by calls whose values are not used. `called` contains the names
      before the methods; `passed` contains the names in the arguments.
    - `calls`: the calls of functions by a plain name, such as `f(x)`.
    - `aliases`: pairs of a new name and an old name that may mean the same object.
    - `anything`: the code may bind any name (`exec`, `from x import *`, `%run`).
    """

    objects: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    calls: set[Call] = field(default_factory=set)
    aliases: set[tuple[str, str]] = field(default_factory=set)
    anything: bool = False


def changes_of(nodes: list[ast.stmt]) -> Changes:
    """The changes that these statements make when they run.

    If a statement defines a function, the body of the function does not count, because the function is not called yet.
    """
    changes = Changes()
    for node in nodes:
        for part in _run_now(node):
            _note(part, changes)
    return changes


def root_of(node: ast.expr) -> str:
    """The name at the beginning of an expression such as `a.b[0].c`; "" if there is none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred | ast.Await):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _run_now(node: ast.AST) -> Iterator[ast.AST]:
    """The node and its parts, except function bodies, which run later, and calls in `with`, whose effects end with it."""
    if isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call):
        for part in ast.iter_child_nodes(node.context_expr):
            yield from _run_now(part)
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, _FUNCTIONS):
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _run_now(part)


def _note(part: ast.AST, changes: Changes) -> None:
    match part:
        case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
            changes.objects.add(root_of(part))
        case ast.Call():
            _note_call(part, changes)
        case ast.Expr(value=value) | ast.Assign(targets=[ast.Name(id="_")], value=value):
            _note_unused(value, changes)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            for decorator in part.decorator_list:
                _note_decorator(decorator, part.name, changes)
        case ast.ImportFrom(names=[ast.alias(name="*")]):
            changes.anything = True
        case ast.AugAssign(target=ast.Name(id=name)):
            changes.objects.add(name)
    changes.aliases |= set(_aliases(part))


def _note_call(call: ast.Call, changes: Changes) -> None:
    given = frozenset(filter(None, (root_of(value) for value in [*call.args, *(pair.value for pair in call.keywords)])))
    match call.func:
        case ast.Name(id=name):
            changes.calls.add(Call(name, given))
            changes.anything |= name in _ANYTHING
            if name in _CHANGES_ITS_ARGUMENT and call.args:
                changes.objects.add(root_of(call.args[0]))
        case ast.Attribute(attr="run_line_magic", value=ast.Call()):
            _note_magic(call, changes)
        case ast.Attribute(attr=method):
            root = root_of(call.func)
            if method in _CHANGES_ITS_OBJECT or (method.endswith("_") and not method.startswith("_")):
                changes.objects.add(root)
            if _SETS_A_MODULE.match(method):
                changes.modules.add(root)


def _note_unused(value: ast.expr, changes: Changes) -> None:
    """Record a call whose value is not used.

    Such a call is assumed to change its object or its arguments.
    """
    call = value.value if isinstance(value, ast.Await) else value
    if not isinstance(call, ast.Call):
        return
    name = call.func.attr if isinstance(call.func, ast.Attribute) else root_of(call.func)
    if name in ONLY_SHOW:
        return
    if isinstance(call.func, ast.Attribute):
        changes.called.add(root_of(call.func))
    changes.passed |= {root_of(argument) for argument in call.args}


def _note_decorator(decorator: ast.expr, name: str, changes: Changes) -> None:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(function, ast.Name):
        changes.calls.add(Call(function.id, frozenset((name,))))
    else:
        changes.called.add(root_of(function))


def _note_magic(call: ast.Call, changes: Changes) -> None:
    """Record the changes of a magic: `%run` binds the names of the file that it runs, and `%env` affects all later code.

    The function `code_of_magics` handles `%time x = f()`.
    """
    match call.args:
        case [ast.Constant(value="run" | "env" | "set_env"), *_]:
            changes.anything = True


def _aliases(part: ast.AST) -> Iterator[tuple[str, str]]:
    match part:
        case ast.Assign(targets=targets, value=value):
            pairs = [(target, value) for target in targets]
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            pairs = [(target, value)]
        case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
            names = {piece.id for piece in ast.walk(value) if isinstance(piece, ast.Name)}
            yield from ((new.id, old) for new in ast.walk(target) if isinstance(new, ast.Name) for old in names)
            return
        case _:
            return
    for target, value in pairs:
        olds = {root_of(piece) for piece in _same_things(value)} - {""}
        yield from ((new.id, old) for new in ast.walk(target) if isinstance(new, ast.Name) for old in olds)


def _same_things(value: ast.expr) -> Iterator[ast.expr]:
    """The parts of an expression that may be its value, or an element of that value."""
    match value:
        case ast.Name() | ast.Attribute() | ast.Subscript():
            yield value
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Dict(values=parts) | ast.BoolOp(values=parts):
            for part in parts:
                yield from _same_things(part)
        case ast.IfExp(body=one, orelse=other):
            yield from _same_things(one)
            yield from _same_things(other)
