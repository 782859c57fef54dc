"""Finds the code that a function of a notebook needs, in a form in which two versions of a notebook can be compared."""

from __future__ import annotations

import ast

from labkit.grading.python_cells import parse
from labkit.grading.submission import Submission


def needed_statements(submission: Submission, function: str) -> list[ast.stmt]:
    """The statements that must run to define the function, in the notebook's order."""
    found: list[ast.stmt] = []
    for piece in submission.needed_for(function):
        body = parse(piece.source).body
        found += [body[place] for place in piece.statements]
    return found


def needed_code(submission: Submission, function: str) -> str:
    """The source of the needed statements, without comments and layout; if there are none, a text that gives the reason."""
    statements = needed_statements(submission, function)
    return "\n".join(map(ast.unparse, statements)) or submission.why_missing(function)
