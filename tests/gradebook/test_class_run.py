"""Decisions of a run: which notebook is graded, which items are graded again, and what happens when a grader sends nothing.

The notebooks here name the exercises only in text cells, so their items are not attempted, and no function has to run.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.errors import InvalidRequest, NotAvailable
from labkit.gradebook import class_run
from labkit.gradebook import graders as graders_module
from labkit.gradebook.book import Submission
from labkit.gradebook.class_run import Summary
from labkit.gradebook.grader import GradeTask
from labkit.gradebook.policy import Policy
from labkit.grading.verdict import Verdict
from tests.gradebook.classes import notebook, write

FEW = notebook(text_cells=("def kv_cache_bytes():", "def greedy_decode():"))
grade_class = partial(class_run.grade_class, sandboxed=False)
"""`grade_class` without a sandbox, which is not needed because these tests run no learner's code."""
MANY = notebook(text_cells=("def kv_cache_bytes():", "def weight_gib():", "def gpus_needed():"))


class Watcher:
    """Records what a run reports."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def starts(self, items: int, submissions: int, known: int) -> None:
        self.told.append((items, submissions, known))

    def has(self, submission: Submission, verdict: Verdict) -> None:
        self.told.append((submission.learner, submission.lab, verdict.cause or verdict.verdict))

    def finished(self, submission: Submission) -> None:
        self.told.append((submission.learner, submission.lab))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the submissions of two learners. One learner has two notebooks of lab 00, the other has none."""
    write(tmp_path / "submissions" / "ada" / "few.ipynb", FEW)
    write(tmp_path / "submissions" / "ada" / "many" / "many.ipynb", MANY)
    (tmp_path / "submissions" / "bert").mkdir()
    return tmp_path


def notes(summary: Summary) -> str:
    return "\n".join(f"{note.learner}: {note.file}: {note.text}" for note in summary.report.notes)


def test_the_notebook_with_the_most_functions_of_a_lab_is_graded(place: Path) -> None:
    watcher = Watcher()
    summary = grade_class(place / "submissions", place / "grades", watcher)
    files = {score.lab: score.attempt.file for score in summary.report.of_learner("ada") if score.attempt}
    assert files == {"00": "many/many.ipynb", "01": "few.ipynb"}
    assert "ada: few.ipynb: This notebook is not graded for lab 00, because many/many.ipynb is graded." in notes(summary)
    assert watcher.told[0] == (12, 2, 0)
    assert [told for told in watcher.told if len(told) == 2] == [("ada", "00"), ("ada", "01")]
    assert {score.verdict for score in summary.report.scores} == {"not attempted"}


def test_a_new_policy_grades_nothing_again(place: Path) -> None:
    first = grade_class(place / "submissions", place / "grades", Watcher(), lab="01")
    assert (first.graded, first.known, first.report.labs) == (1, 0, ("01",))
    policy = Policy({"01": datetime(2020, 1, 1, tzinfo=UTC)}, 10)
    second = grade_class(place / "submissions", place / "grades", Watcher(), lab="01", policy=policy)
    assert (second.graded, second.known) == (0, 1)
    (score,) = second.report.of_learner("ada")
    assert "days late: 0 % of the points count." in score.remark


def test_a_regrade_of_nothing_is_said(place: Path) -> None:
    summary = grade_class(place / "submissions", place / "grades", Watcher(), regrade=["bert", "bert:time_runs"])
    assert summary.graded == 0
    assert "There is no notebook of bert to regrade." in notes(summary)
    with pytest.raises(InvalidRequest, match="no submission of 'carl' to regrade"):
        grade_class(place / "submissions", place / "grades", Watcher(), regrade=["carl"])


def test_a_grader_that_says_nothing_is_not_tried_again_in_this_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grader reads the notebooks and is then stopped before it gets the next task."""
    real = graders_module._Grader.give

    given = []

    def stop_and_give(grader: Any, number: int, task: Any) -> bool:
        if isinstance(task, GradeTask):
            psutil.Process(grader.process.pid).suspend()
            given.append(task)
        return real(grader, number, task)

    monkeypatch.setattr(graders_module._Grader, "give", stop_and_give)
    monkeypatch.setattr(class_run, "SILENT_SECONDS", 0.0)
    watcher = Watcher()
    summary = grade_class(place / "submissions", place / "grades", watcher, lab="01")
    (score,) = summary.report.of_learner("ada")
    assert (score.score, score.attempts, summary.ungraded, len(given)) == (0, 0, 1, 1)
    assert {item.verdict for item in score.items} == {"could not be graded"}
    assert ("ada", "01") in watcher.told


def test_two_runs_do_not_share_a_folder(place: Path) -> None:
    (place / "grades").mkdir()
    with class_run._alone(place / "grades"), pytest.raises(NotAvailable, match="another `labkit grade` is writing"):
        grade_class(place / "submissions", place / "grades", Watcher())
