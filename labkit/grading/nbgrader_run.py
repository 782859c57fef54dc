"""The check of an exercise when `nbgrader validate` or `nbgrader autograde` executes the notebook.

nbgrader gives a check cell all of its points, unless the cell raises an error or writes to stderr; then the cell gets none of
its points. So in such a run, every verdict except a pass raises an error, and nothing is written to stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Callable

from labkit.errors import LabkitError
from labkit.grading.verdict import PASSED, Verdict

EXECUTION = "NBGRADER_EXECUTION"
"""The environment variable that nbgrader sets to "validate" or "autograde" while it executes a notebook."""
_WIDTH = 80
"""`nbgrader validate` cuts off lines that are longer than 83 characters."""


class NoPoints(LabkitError):
    """Raised for a verdict that is not a pass. The message is the verdict in words; IPython shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [part for line in str(self).splitlines() for part in textwrap.wrap(line, _WIDTH, subsequent_indent="    ")]


def is_run_by_nbgrader() -> bool:
    """Whether nbgrader executes this notebook."""
    return EXECUTION in os.environ


def for_nbgrader(check: Callable[[], Verdict]) -> Verdict:
    """Call `check`, print its verdict, and return it if it is a pass. Otherwise raise `NoPoints`.

    Output on stderr, such as a warning of the learner's function, goes to stdout.
    """
    with contextlib.redirect_stderr(sys.stdout):
        verdict = check()
    if verdict.verdict != PASSED:
        raise NoPoints(verdict.text())
    print(verdict.text())
    return verdict
