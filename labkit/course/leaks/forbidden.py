"""Collects everything that must not be released: code and texts of labkit's answers, and the solutions in `solutions/*.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from labkit.course.leaks.normal_code import Suite, bodies, normal_form, runs, size, suites
from labkit.course.leaks.plain_lines import close_up, lines_of
from labkit.course.leaks.solutions import Solution, solutions_in
from labkit.grading.sandbox import HIDDEN

LEAST_BODY, LEAST_RUN = 16, 30
"""The fewest parts (see `normal_code.size`) at which a whole body, or a run of statements in a body, counts as an answer.

Smaller code, such as `return x + 1`, occurs everywhere. Code that occurs both in an answer and in the released library is
always below these limits.
"""
LEAST_LINE, LEAST_SENTENCE, LEAST_BLOCK = 30, 40, 12
"""The fewest characters, not counting spaces, at which a line or a text of an answer, or a whole solution, is forbidden."""


@dataclass
class Forbidden:
    """Everything that may not be released. Each dictionary maps a piece of an answer to the place that it comes from.

    `bodies` and `runs` are normal forms of code. `shapes` are the sizes of this code: code whose shape is not in `shapes`
    cannot be forbidden code, and this is quick to test. `solutions` are whole solutions as lines of text, `lines` are single
    lines of answers, and `sentences` are texts such as the message about a mistake. All texts are stored without spaces.
    """

    bodies: dict[str, str] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    shapes: set[tuple[int, int]] = field(default_factory=set)
    solutions: dict[tuple[str, ...], str] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=dict)

    def add_body(self, body: Suite, place: str) -> None:
        """Forbid the body of a function."""
        if sum(map(size, body)) >= LEAST_BODY:
            self.bodies.setdefault(normal_form(body), place)
            self.shapes.add(shape(body))

    def add_run(self, run: Suite, place: str) -> None:
        """Forbid a run of statements, wherever it occurs in the release."""
        self.runs.setdefault(normal_form(run), place)
        self.shapes.add(shape(run))

    def add_line(self, line: str, place: str) -> None:
        """Forbid a line of code, unless it is short."""
        if len(line) >= LEAST_LINE:
            self.lines.setdefault(line, place)


def shape(code: Suite) -> tuple[int, int]:
    """The number of statements in the code, and the number of its parts.

    Two pieces of code with different shapes have different normal forms.
    """
    return len(code), sum(map(size, code))


def forbidden_in(root: Path) -> Forbidden:
    """Collect what the course in the folder `root` may not release, from labkit's folders with answers and `solutions/*.py`."""
    found = Forbidden()
    sources = sorted((root / "solutions").glob("*.py"))
    solutions = [(path, solution) for path in sources for solution in solutions_in(path.read_text("utf-8"))]
    given = {line for _, solution in solutions for line in solution.given}
    for path in hidden_files(root):
        _add_answers(found, path, path.relative_to(root).as_posix(), given)
    for path, solution in solutions:
        _add_solution(found, solution, path.relative_to(root).as_posix())
    return found


def hidden_files(root: Path) -> Iterator[Path]:
    """Yield the Python files of labkit that contain answers."""
    for folder in HIDDEN:
        yield from sorted((root / "labkit" / folder).rglob("*.py"))


def _add_answers(found: Forbidden, path: Path, name: str, given: AbstractSet[str]) -> None:
    text = path.read_text("utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    for body in bodies(tree):
        found.add_body(body, f"{name}:{body[0].lineno}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for suite in suites(node):
                for run in runs(suite, LEAST_RUN):
                    found.add_run(run, f"{name}:{run[0].lineno}")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            for number in range(node.body[0].lineno, (node.end_lineno or 0) + 1):
                for line in lines_of(lines[number - 1]):
                    if line not in given:
                        found.add_line(line, f"{name}:{number}")
    for sentence, number in texts_in(tree):
        if len(sentence) >= LEAST_SENTENCE:
            found.sentences.setdefault(sentence, f"{name}:{number}")


def texts_in(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each string in a module, without its spaces, and its line number. Docstrings are left out."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield close_up(node.value), node.lineno


def _add_solution(found: Forbidden, solution: Solution, name: str) -> None:
    for body in solution.bodies:
        found.add_body(body, f"{name}:{solution.line}")
    for suite in suites(solution.tree):
        for run in runs(suite, LEAST_RUN):
            found.add_run(run, f"{name}:{solution.line + run[0].lineno}")
    lines = tuple(line for _, line in solution.lines)
    if sum(map(len, lines)) >= LEAST_BLOCK:
        found.solutions.setdefault(lines, f"{name}:{solution.line}")
    for number, line in solution.lines:
        if line not in solution.given:
            found.add_line(line, f"{name}:{number}")
