"""The outcome of a check: a verdict, points, a message, and details that help to find the mistake."""

from __future__ import annotations

import html
from dataclasses import dataclass

from labkit.plurals import counted

PASSED = "passed"
FAILED = "failed"
NOT_MEASURED = "not measured here"
NOT_ATTEMPTED = "not attempted"
INCONCLUSIVE = "inconclusive"
"""The verdict if a time limit passed while other programs kept the learner's processes waiting for a core (see `busy_machine`).
"""
ERROR = "error"
"""In a gradebook: the exercise failed because the function raised an error, or because its process ended too early."""
TIMED_OUT = "timed out"
"""In a gradebook: the exercise failed because a time limit passed."""
UNGRADED = "could not be graded"
"""The verdict if the grading machine failed. No learner's code is to blame, so it is no result: a later run grades again."""
NO_ANSWER = "no answer here"
"""The cause of "not measured here" if this copy of labkit has no answer to compare with."""
PARTIAL = "partial"
"""In a gradebook: some of the points were reached, but not all of them."""

_SIGNS = {
    PASSED: "✓",
    FAILED: "✗",
    NOT_MEASURED: "–",
    NOT_ATTEMPTED: "…",
    INCONCLUSIVE: "?",
    ERROR: "!",
    TIMED_OUT: "⌛",
    PARTIAL: "◐",
    UNGRADED: "↻",
}
_COLOURS = {
    PASSED: "#009E73",
    FAILED: "#D55E00",
    NOT_MEASURED: "#777777",
    NOT_ATTEMPTED: "#0072B2",
    INCONCLUSIVE: "#777777",
    ERROR: "#D55E00",
    TIMED_OUT: "#D55E00",
    PARTIAL: "#B07D00",
    UNGRADED: "#777777",
}
_LAST_CHECK = {
    FAILED: "the last check failed",
    NOT_MEASURED: "the last check could not measure it here",
    NOT_ATTEMPTED: "the last check found it not attempted",
    INCONCLUSIVE: "the last check was inconclusive",
    UNGRADED: "the last check could not be made",
}


def state(verdict: str, kept: int = 0) -> str:
    """The state of an exercise in words, from its last verdict and the points from an earlier pass.

    The best result counts. If the last result is different, both results are named: "passed before (10 points kept); the last
    check failed".
    """
    return (
        verdict if verdict == PASSED or not kept else f"passed before ({counted(kept, 'point')} kept); {_LAST_CHECK[verdict]}"
    )


def colour(verdict: str, kept: int = 0) -> str:
    """The colour for a state, readable on light and dark backgrounds. If points are kept, it is the colour of a pass."""
    return _COLOURS[PASSED if kept else verdict]


def sign(verdict: str) -> str:
    """The character that is shown before a verdict, so that no reader needs the colour."""
    return _SIGNS[verdict]


@dataclass(frozen=True)
class Verdict:
    """The outcome of the check of one exercise. A notebook shows it as a small box; a terminal shows it as text.

    If the verdict is "failed" for a reason other than a wrong answer, `cause` names the reason: "error" or "timed out". If it
    is "not measured here" because this copy of labkit has no answer, `cause` is "no answer here".
    """

    exercise: str
    title: str
    verdict: str
    points: int
    out_of: int
    message: str
    details: str = ""
    cause: str = ""

    def __str__(self) -> str:
        return self.text()

    def text(self, kept: int = 0) -> str:
        """The verdict as text. `kept` are points from an earlier pass, which this check does not take away."""
        head = f"{_SIGNS[self.verdict]} {self.title}: {self._state(kept)}{self._end(kept)}{self.message}"
        return "\n".join([head, *(f"    {line}" for line in self.details.splitlines())])

    def html(self, kept: int = 0) -> str:
        """The verdict as HTML, for the box in a notebook."""
        hue = _COLOURS[self.verdict]
        details = f"<pre style='margin:.5em 0 0;opacity:.85'>{html.escape(self.details)}</pre>" if self.details else ""
        return (
            f"<div class='labkit-verdict' data-verdict='{self.verdict}' style='border-left:4px solid {hue};"
            f"padding:.4em .8em;margin:.3em 0'><b style='color:{hue}'>{_SIGNS[self.verdict]} {html.escape(self.title)}: "
            f"{html.escape(self._state(kept))}</b><br>{html.escape(self.message)}{details}</div>"
        )

    def _state(self, kept: int) -> str:
        is_better_before = kept > self.points
        return state(self.verdict, kept) if is_better_before else f"{self.verdict}, {self.points}/{self.out_of} points"

    def _end(self, kept: int) -> str:
        return ": " if kept > self.points and self.verdict == FAILED else ". "

    def _ipython_display_(self) -> None:
        """Show nothing.

        `check` has already shown the verdict, but a notebook would show the value of a cell's last line again.
        """
