"""The progress display of `labkit grade`: a bar with the time left in a terminal, and plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from labkit.cli.output import say
from labkit.gradebook.names import shown
from labkit.plurals import counted

if TYPE_CHECKING:
    from labkit.gradebook.book import Submission
    from labkit.grading.verdict import Verdict


class GradeProgress:
    """Shows the progress of a grading run on stderr. Use it as a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._is_terminal = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("items in"),
            TimeElapsedColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._is_terminal,
        )
        self._submissions = self._finished = 0

    def __enter__(self) -> GradeProgress:
        self._bar.start()
        self._task = self._bar.add_task("reading the notebooks", total=None)
        if not self._is_terminal:
            say("reading the notebooks")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def starts(self, items: int, submissions: int, known: int) -> None:
        """Show how much there is to grade."""
        self._submissions = submissions
        self._bar.reset(self._task, total=items, description=self._words())
        if not self._is_terminal:
            before = f" ({known} graded before)" if known else ""
            say(f"grading {counted(submissions, 'submission')}{before}, {counted(items, 'item')}")

    def has(self, submission: Submission, verdict: Verdict) -> None:
        """Advance the bar by one item."""
        self._bar.advance(self._task)

    def finished(self, submission: Submission) -> None:
        """Show that a submission is finished."""
        self._finished += 1
        self._bar.update(self._task, description=self._words())
        if not self._is_terminal:
            say(f"[{self._finished}/{self._submissions}] {shown(submission.learner)}, lab {submission.lab}")

    def _words(self) -> str:
        return f"submission {self._finished} of {self._submissions}"
