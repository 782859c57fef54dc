"""What a check says: a verdict, points, one message in words, and details that help to find the mistake."""

from __future__ import annotations

import html
from dataclasses import dataclass

PASSED = "passed"
FAILED = "failed"
NOT_MEASURED = "not measured here"
NOT_ATTEMPTED = "not attempted"

_SIGNS = {PASSED: "✓", FAILED: "✗", NOT_MEASURED: "–", NOT_ATTEMPTED: "…"}
_COLOURS = {PASSED: "#009E73", FAILED: "#D55E00", NOT_MEASURED: "#777777", NOT_ATTEMPTED: "#0072B2"}


@dataclass(frozen=True)
class Verdict:
    """The outcome of one exercise; shows itself as a small box in a notebook and as text elsewhere."""

    exercise: str
    title: str
    verdict: str
    points: int
    out_of: int
    message: str
    details: str = ""

    def __str__(self) -> str:
        lines = [f"{_SIGNS[self.verdict]} {self.title}: {self.verdict}, {self.points}/{self.out_of} points. {self.message}"]
        return "\n".join([*lines, *(f"    {line}" for line in self.details.splitlines())])

    def html(self) -> str:
        """The box of a notebook; its colours are readable on light and on dark."""
        colour = _COLOURS[self.verdict]
        details = f"<pre style='margin:.5em 0 0;opacity:.85'>{html.escape(self.details)}</pre>" if self.details else ""
        return (
            f"<div class='labkit-verdict' data-verdict='{self.verdict}' style='border-left:4px solid {colour};"
            f"padding:.4em .8em;margin:.3em 0'><b style='color:{colour}'>{_SIGNS[self.verdict]} {html.escape(self.title)}: "
            f"{self.verdict}</b> <span style='opacity:.7'>{self.points}/{self.out_of} points</span><br>"
            f"{html.escape(self.message)}{details}</div>"
        )

    def _ipython_display_(self) -> None:
        """Nothing: `check` has shown it already, and the last line of a cell would show it again."""
