"""Runs the statements of a submission one by one in the worker's process, as Jupyter does.

If a statement fails, the statements after it still run.
"""

from __future__ import annotations
import __future__

import ast
import asyncio
import contextlib
import inspect
import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.grading.call import OutOfTimeError, time_limit
from labkit.grading.python_cells import parse
from labkit.grading.shorten import shorten
from labkit.grading.submission import Piece

NO_DEFINITION = "its definition does not run"
"""The error for a function whose name was not bound by any statement that ran."""
DEFINE_SECONDS = 120.0
"""The time limit in seconds for all statements that a function needs, in total."""


@dataclass(frozen=True)
class Failure:
    """A statement that failed: its cell, its first line, the names that it should have bound, and its error in words."""

    cell: int
    line: str
    names: frozenset[str]
    error: str

    def __str__(self) -> str:
        return f"cell {self.cell}: `{self.line}` did not run: {self.error}"


def define(pieces: Sequence[Piece], scope: dict[str, Any], seconds: float = DEFINE_SECONDS) -> list[Failure]:
    """Run the statements of these pieces in `scope` and return the failures.

    After `seconds`, the remaining statements are not run.
    """
    failed: list[Failure] = []
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    for piece in pieces:
        lines = piece.source.splitlines(keepends=True)
        name = f"<cell {piece.cell}>"
        linecache.cache[name] = (len(piece.source), None, lines, name)  # for tracebacks, and for `inspect.getsource`
    piece, node = Piece(0, "", []), ast.stmt()
    try:
        with time_limit(seconds, "the code that your function needs"), contextlib.closing(asyncio.new_event_loop()) as loop:
            for piece, node in [(one, node) for one in pieces for node in _chosen(one)]:
                flags |= _future(node)
                if error := _run(node, f"<cell {piece.cell}>", flags, scope, loop):
                    failed.append(_failure(piece, node, error))
    except OutOfTimeError:
        failed.append(_failure(piece, node, f"this statement and the earlier statements took more than {seconds:g} seconds"))
    return failed


def _chosen(piece: Piece) -> list[ast.stmt]:
    body = parse(piece.source).body
    return [body[place] for place in piece.statements]


def _future(node: ast.stmt) -> int:
    """The compiler flags that this statement sets for itself and for all later statements, also in other cells."""
    if not isinstance(node, ast.ImportFrom) or node.module != "__future__":
        return 0
    features = [getattr(__future__, name.name, None) for name in node.names]
    return sum({feature.compiler_flag for feature in features if feature is not None})


def _run(node: ast.stmt, name: str, flags: int, scope: dict[str, Any], loop: asyncio.AbstractEventLoop) -> str:
    """Run one statement. Return its error in words, or "" if there is none. A top-level `await` is allowed, as in Jupyter."""
    try:
        # Without dont_inherit, the line `from __future__ import annotations` of this file would apply to the learner's code.
        code = compile(ast.Module([node], []), name, "exec", flags=flags, dont_inherit=True)
        waiting = eval(code, scope)
        if inspect.iscoroutine(waiting):
            loop.run_until_complete(waiting)
        return ""
    except OutOfTimeError:
        raise
    except BaseException as error:  # A learner's code may raise anything.
        return in_words(error)


def in_words(error: BaseException) -> str:
    """The name of an exception and the first line of its message, shortened."""
    try:
        text = str(error).strip().splitlines()
    except Exception:  # A learner's exception class may have no working __str__.
        text = []
    return f"{shorten(type(error).__name__, 60)}: {shorten(text[0]) if text else 'no message'}"


def _failure(piece: Piece, node: ast.stmt, error: str) -> Failure:
    lines = piece.source.splitlines()
    line = lines[node.lineno - 1].strip() if 0 < getattr(node, "lineno", 0) <= len(lines) else ""
    bound = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    named = {getattr(part, "name", None) or "" for part in ast.walk(node)}
    return Failure(piece.cell, shorten(line, 80), frozenset(bound | named), error)
