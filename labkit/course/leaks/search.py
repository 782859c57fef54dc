"""Searches the text of a release for answers."""

from __future__ import annotations

import ast
import bisect
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from labkit.course.leaks.forbidden import LEAST_RUN, Forbidden, shape, texts_in
from labkit.course.leaks.normal_code import Suite, bodies, normal_form, runs, suites
from labkit.course.leaks.plain_lines import close_up, lines_of
from labkit.course.leaks.texts import Text, code_in
from labkit.grading.python_cells import UNPARSABLE, parse

_MARKS = " \t#>"
"""The characters that can precede code in a comment, in a Markdown quotation, or at Python's prompt."""


@dataclass(frozen=True)
class Found:
    """An answer in a text: its line (counted from 1), the kind of answer, and its source in the course."""

    line: int
    what: str
    source: str


def search_code(text: Text, forbidden: Forbidden) -> Iterator[Found]:
    """Find functions and statements of answers in the Python code of a text, even if their variables were renamed."""
    for code, before in code_in(text):
        tree = _tree(code)
        if tree is not None:
            yield from _in_tree(tree, forbidden, before)


def search_lines(text: Text, forbidden: Forbidden) -> Iterator[Found]:
    """Find whole solutions, and single lines of answers, in a text of any kind."""
    rows = enumerate(text.content.splitlines(), 1)
    numbered = [(number, line) for number, row in rows for line in lines_of(row.lstrip(_MARKS))]
    lines = tuple(line for _, line in numbered)
    firsts = {solution[0] for solution in forbidden.solutions}
    for index, (number, line) in enumerate(numbered):
        for solution, source in forbidden.solutions.items() if line in firsts else ():
            if lines[index : index + len(solution)] == solution:
                yield Found(number, "the solution", source)
    whole = "\n".join(lines)
    for secret, source in forbidden.lines.items():
        if secret in whole:
            number = next(number for number, line in numbered if secret in line)
            yield Found(number, "a line of the answer", source)


def search_sentences(text: Text, forbidden: Forbidden) -> Iterator[Found]:
    """Find texts of answers, such as the message about a known mistake."""
    tree = _tree(text.content) if text.is_code else None
    if tree is not None:
        parts, between = list(texts_in(tree)), "\0"
    else:  # a sentence can continue on the next line
        parts, between = [(close_up(line), number) for number, line in enumerate(text.content.splitlines(), 1)], ""
    whole = between.join(part for part, _ in parts)
    ends = list(itertools.accumulate(len(part) + len(between) for part, _ in parts))
    for secret, source in forbidden.sentences.items():
        if (begin := whole.find(secret)) >= 0:
            yield Found(parts[bisect.bisect_right(ends, begin)][1], "a text of the answer", source)


def _in_tree(tree: ast.Module, forbidden: Forbidden, before: int) -> Iterator[Found]:
    for body in bodies(tree):
        if source := _source(body, forbidden.bodies, forbidden):
            yield Found(before + body[0].lineno, "the body of a function", source)
    for suite in suites(tree):
        for run in runs(suite, LEAST_RUN):
            if source := _source(run, forbidden.runs, forbidden):
                yield Found(before + run[0].lineno, "code", source)


def _source(code: Suite, known: dict[str, str], forbidden: Forbidden) -> str:
    return known.get(normal_form(code), "") if code and shape(code) in forbidden.shapes else ""


def _tree(code: str) -> ast.Module | None:
    try:
        return parse(textwrap.dedent(code))
    except UNPARSABLE:
        return None
