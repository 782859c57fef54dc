"""Reads the solutions in the source of a lab, between the marks BEGIN SOLUTION and END SOLUTION."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from labkit.course.leaks.normal_code import Suite, without_docstring
from labkit.course.leaks.plain_lines import lines_of

_BEGIN, _END = re.compile(r"^\s*# BEGIN SOLUTION"), re.compile(r"^\s*# END SOLUTION$")
_CELL = re.compile(r"^# %%")


@dataclass(frozen=True)
class Solution:
    """A solution: the number of its BEGIN mark's `line`, its syntax `tree`, and its numbered `lines` without white space.

    `bodies` are the whole bodies of the functions around the solution. `given` are lines that the learner gets anyway: the
    text of the lab, and the lines of the same cell outside its solutions. A line of the solution that is in `given` is no
    secret.
    """

    line: int
    tree: ast.Module
    lines: tuple[tuple[int, str], ...]
    bodies: tuple[Suite, ...]
    given: frozenset[str]


def solutions_in(source: str) -> Iterator[Solution]:
    """Yield the solutions in the source of a lab, which is a script in the percent format (cells start with `# %%`)."""
    lines, tree = source.splitlines(), ast.parse(source)
    blocks = list(_blocks(lines))
    for begin, end in blocks:
        yield Solution(
            line=begin,
            tree=ast.parse(textwrap.dedent("\n".join(lines[begin : end - 1]))),
            lines=tuple((number, line) for number in range(begin + 1, end) for line in lines_of(lines[number - 1])),
            bodies=tuple(without_docstring(node.body) for node in _functions_around(tree, begin)),
            given=frozenset(_given(lines, begin, blocks)),
        )


def _blocks(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Yield the line numbers of the two marks of each solution."""
    begin = 0
    for number, line in enumerate(lines, 1):
        if _BEGIN.match(line):
            begin = number
        elif _END.match(line):
            yield begin, number


def _functions_around(tree: ast.Module, line: int) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.lineno < line <= (node.end_lineno or 0):
            yield node


def _given(lines: list[str], line: int, blocks: list[tuple[int, int]]) -> Iterator[str]:
    """Yield the lines of all Markdown cells, and the lines outside solutions in the cell that contains `line`."""
    starts = [number for number, text in enumerate(lines, 1) if _CELL.match(text)]
    first = max((start for start in starts if start < line), default=1)
    last = min((start for start in starts if start > line), default=len(lines) + 1)
    for number, text in enumerate(lines, 1):
        if text.startswith("# "):
            yield from lines_of(text.removeprefix("# "))
        elif first <= number < last and not any(begin <= number <= end for begin, end in blocks):
            yield from lines_of(text)
