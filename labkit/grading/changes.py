"""What a statement does to things that exist already: `CONFIG["a"] = 1`, `items.append(3)`, `torch.set_grad_enabled(False)`.

An estimate from the text alone, nothing is run. It errs towards too much: a statement that was run in vain does no harm.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ONLY_SHOW = frozenset(
    ("print", "display", "pprint", "help", "check", "hint", "passed", "predicted", "progress_panel", "interact", "show")
) | frozenset(("head", "describe", "plot", "info", "savefig", "keys", "values", "items", "copy", "assert_close", "sleep"))
"""Functions and methods that leave their arguments as they are; those of labkit.grading are among them."""
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
    """A call of a function by its plain name, and the names that it is given."""

    function: str
    given: frozenset[str]


@dataclass
class Changes:
    """What code does when it runs.

    `objects`: names whose things it alters. `modules`: names that it calls a setter of, if they are modules. `called` and
    `passed`: where nobody uses a call's value, the name that the method belongs to, and the names that it is given; it may
    alter these. `calls`: functions that are called by a plain name. `aliases`: pairs of a new name and an old one that may be
    the same thing. `anything`: it may bind any name (`exec`, `from x import *`, `%run`).
    """

    objects: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    calls: set[Call] = field(default_factory=set)
    aliases: set[tuple[str, str]] = field(default_factory=set)
    anything: bool = False


def changes_of(nodes: list[ast.stmt]) -> Changes:
    """The changes that these statements make when they run; bodies of functions in them do not run yet."""
    changes = Changes()
    for node in nodes:
        for part in _run_now(node):
            _note(part, changes)
    return changes


def root_of(node: ast.expr) -> str:
    """The name that `a.b[0].c` starts with, or nothing."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred | ast.Await):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _run_now(node: ast.AST) -> Iterator[ast.AST]:
    """The node and its parts, but for the bodies of functions; what `with` calls is undone at its end, and left out too."""
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
    """A call whose value nobody uses was made for what it does: to its object, or to what it is given."""
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
    """`%run` binds what its file defines, `%env` is for all later code; `%time x = f()` is left to `code_of_magics`."""
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
    """The parts of an expression that its value may be, or hold, themselves."""
    match value:
        case ast.Name() | ast.Attribute() | ast.Subscript():
            yield value
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Dict(values=parts) | ast.BoolOp(values=parts):
            for part in parts:
                yield from _same_things(part)
        case ast.IfExp(body=one, orelse=other):
            yield from _same_things(one)
            yield from _same_things(other)
