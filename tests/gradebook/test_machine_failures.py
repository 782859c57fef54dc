"""A failure of the grading machine is nobody's result: it costs no attempt and no grade, and the next run grades again."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.cli.grade import _print
from labkit.exercises.answer import Answer
from labkit.exercises.registry import of_lab
from labkit.gradebook import class_run
from labkit.gradebook import graders as graders_module
from labkit.gradebook.book import Submission
from labkit.gradebook.class_run import Summary
from labkit.gradebook.grader import GradeTask, ReadTask, answers
from labkit.gradebook.names import page_name
from labkit.gradebook.policy import Policy
from labkit.gradebook.reading import digest
from labkit.gradebook.scores import LabScore
from labkit.grading import sandbox as sandbox_module
from labkit.grading.verdict import ERROR, FAILED, NOT_ATTEMPTED, PARTIAL, UNGRADED, Verdict
from tests.gradebook.classes import EXERCISE, SOLVED, STUB, has_sandbox, notebook, write
from tests.gradebook.test_class_run import Watcher
from tests.patience import wait_for
from tests.sandboxes import sandbox_or_skip

NAMED = notebook(text_cells=("def kv_cache_bytes():",))
"""A notebook that names an exercise only in a text cell, so no function has to run."""
ONCE = Policy(most_attempts=1)
DIED = "The machine failed: the grader's process ended too early (status -9)."
ITEMS = len(of_lab("00"))
grade_class = partial(class_run.grade_class, sandboxed=False, policy=ONCE)


class Killer:
    """Kills graders as soon as they have a notebook of a learner to grade, as a machine without memory does."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, learner: str = "ada", first: int = 1, times: int, kind: Any = GradeTask
    ) -> None:
        self.given = 0
        real = graders_module._Grader.give

        def give_and_kill(grader: Any, number: int, task: Any) -> bool:
            is_chosen = isinstance(task, kind) and learner in task.path.parts
            self.given += is_chosen
            if not is_chosen or not first <= self.given < first + times:
                return real(grader, number, task)
            process = psutil.Process(grader.process.pid)
            process.suspend()  # so that it cannot finish the task before it is killed
            wait_for(lambda: process.status() == psutil.STATUS_STOPPED, "the stop of the grader")
            is_given = real(grader, number, task)
            process.kill()
            return is_given

        monkeypatch.setattr(graders_module._Grader, "give", give_and_kill)


@pytest.fixture(scope="module")
def quick_context() -> Iterator[Any]:
    """Starts processes from a process that has imported the grader already, so that a test can afford many graders."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["labkit.gradebook.grader"])
    yield context
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.fixture
def quick_graders(quick_context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start this test's graders quickly."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: quick_context)


@pytest.fixture
def place(tmp_path: Path, quick_graders: None) -> Path:
    """A folder with the submissions of two learners."""
    for name in ("ada", "bert"):
        write(tmp_path / "submissions" / name / "00.ipynb", NAMED)
    return tmp_path


def run(place: Path, watcher: Any = None, **options: Any) -> Summary:
    return grade_class(place / "submissions", place / "grades", watcher or Watcher(), **options)


def score_of(summary: Summary, learner: str = "ada") -> LabScore:
    (score,) = [score for score in summary.report.of_learner(learner) if score.lab == "00"]
    return score


def numbers(summary: Summary) -> tuple[int, int, int]:
    return summary.graded, summary.known, summary.ungraded


def test_a_killed_grader_is_tried_once_more_in_the_same_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer, watcher = Killer(monkeypatch, times=1), Watcher()
    summary = run(place, watcher)
    assert killer.given == 2
    assert numbers(summary) == (2, 0, 0)
    assert (score_of(summary).verdict, score_of(summary).ungraded) == (NOT_ATTEMPTED, "")
    items = [told for told in watcher.told if len(told) == 3 and told[0] == "ada"]
    assert items == [("ada", "00", NOT_ATTEMPTED)] * ITEMS, "every item is counted once"
    assert [told[0] for told in watcher.told if len(told) == 2] == ["bert", "ada"], "the second try comes last"


def test_a_grader_that_always_dies_ends_the_try_and_not_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer, watcher = Killer(monkeypatch, times=10**6), Watcher()
    summary = run(place, watcher)
    assert killer.given == 2
    assert numbers(summary) == (1, 0, 1)
    score = score_of(summary)
    assert (score.verdict, score.attempt, score.attempts, score.ungraded) == (UNGRADED, None, 0, DIED)
    assert score_of(summary, "bert").verdict == NOT_ATTEMPTED
    assert [told for told in watcher.told if told[0] == "ada"] == [("ada", "00", UNGRADED)] * ITEMS + [("ada", "00")]


def test_the_next_run_grades_what_could_not_be_graded_as_the_first_attempt(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        Killer(patch, times=2)
        first = run(place)
    _print(first, place / "grades")
    shown = capsys.readouterr()
    assert "↻ could not be graded, 0 of" in shown.out
    assert "1 submission graded, 0 graded before, 1 could not be graded" in shown.out
    assert f"ada, lab 00: {DIED}" in shown.err
    assert "Run the same command again" in shown.err
    assert DIED.replace("'", "&#x27;") in (place / "grades" / "class.html").read_text("utf-8")
    feedback = (place / "grades" / "feedback" / page_name("ada")).read_text("utf-8")
    assert "It will be graded again." in feedback
    assert "status -9" not in feedback, "a learner learns nothing from a failure"
    second = run(place)
    assert numbers(second) == (1, 1, 0)
    score = score_of(second)
    assert score.attempt is not None
    assert (score.attempt.number, score.verdict, score.ungraded) == (1, NOT_ATTEMPTED, "")
    assert numbers(run(place)) == (0, 2, 0)


@pytest.mark.usefixtures("quick_graders")
def test_a_failure_does_not_use_up_the_only_attempt_or_replace_a_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner has points. Then a second version of the notebook, and later a regrade of the first, cannot be graded."""
    path = write(tmp_path / "submissions" / "ada" / "00.ipynb", notebook(SOLVED))
    options = {"sandboxed": has_sandbox()}

    def expect(summary: Summary, ungraded: int) -> None:
        score = score_of(summary)
        assert score.attempt is not None
        assert (summary.ungraded, score.attempts, score.attempt.number) == (ungraded, 1, 1)
        assert (score.verdict, score.points.reached) == (PARTIAL, EXERCISE.points)
        assert (score.ungraded, "graded again" in score.remark) == ((DIED, True) if ungraded else ("", False))

    expect(run(tmp_path, **options), 0)
    with monkeypatch.context() as patch:
        Killer(patch, times=2)
        expect(run(tmp_path, regrade=["ada:kv_cache_bytes"], **options), 1)
    again = run(tmp_path, **options)
    assert again.graded == 1, "an ordinary run repeats the failed regrade"
    expect(again, 0)
    write(path, notebook(STUB))
    with monkeypatch.context() as patch:
        Killer(patch, times=2)
        expect(run(tmp_path, **options), 1)


def test_a_submission_that_was_taken_away_is_not_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Killer(patch, times=2)
        run(place)
    assert score_of(run(place, lab="01")).ungraded == DIED, "this run does not look at lab 00"
    (place / "submissions" / "ada" / "00.ipynb").unlink()
    score = score_of(run(place))
    assert (score.ungraded, score.verdict, score.attempts) == ("", NOT_ATTEMPTED, 0)


class KillsAtFirst(Watcher):
    """Kills the grader when the first verdict on an item comes."""

    killed = 0

    def starts(self, items: int, submissions: int, known: int) -> None:
        """Nothing to record."""

    def has(self, submission: Submission, verdict: Verdict) -> None:
        if not self.told:
            for process in multiprocessing.active_children():
                process.kill()
                self.killed += 1
        super().has(submission, verdict)


@pytest.mark.usefixtures("quick_graders")
def test_verdicts_from_before_the_failure_stay(tmp_path: Path) -> None:
    """The grader dies while it starts the process for the third function. The second try continues with this function."""
    write(tmp_path / "submissions" / "ada" / "00.ipynb", notebook(SOLVED))
    watcher = KillsAtFirst()
    summary = run(tmp_path, watcher, sandboxed=has_sandbox())
    score = score_of(summary)
    assert score.attempt is not None
    assert (numbers(summary), score.attempt.number, score.points.reached) == ((1, 0, 0), 1, EXERCISE.points)
    assert watcher.killed == 1
    assert len([told for told in watcher.told if len(told) == 3]) == ITEMS, "every item is counted once"


@pytest.mark.usefixtures("quick_graders")
def test_a_submission_with_some_verdicts_is_an_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a learner could see verdicts, make the grader fail at the last exercise, and get the attempt back."""
    write(tmp_path / "submissions" / "ada" / "00.ipynb", notebook(SOLVED))
    with monkeypatch.context() as patch:
        Killer(patch, times=10**6, first=2)
        first = score_of(run(tmp_path, KillsAtFirst(), sandboxed=has_sandbox()))
    assert first.attempt is not None
    verdicts = {item.exercise: item.verdict for item in first.items}
    assert (first.attempts, verdicts["lab00.parameter_count"], verdicts[EXERCISE.name]) == (1, NOT_ATTEMPTED, UNGRADED)
    second = score_of(run(tmp_path, sandboxed=has_sandbox()))
    assert (second.attempts, second.points.reached) == (1, EXERCISE.points)


def test_a_notebook_that_changes_during_the_run_is_graded_by_the_next(place: Path) -> None:
    class Changes(Watcher):
        def starts(self, items: int, submissions: int, known: int) -> None:
            write(place / "submissions" / "ada" / "00.ipynb", notebook("x = 1", text_cells=("def kv_cache_bytes():",)))

    first = run(place, Changes())
    assert numbers(first) == (1, 0, 1)
    assert "changed after it was collected" in score_of(first).ungraded
    second = run(place)
    score = score_of(second)
    assert score.attempt is not None
    assert (numbers(second), score.attempt.number, score.ungraded) == ((1, 1, 0), 1, "")


FAILS = """#!/bin/sh
case "$*" in *worker_host*) [ -e {flag} ] && rm {flag} && exit 1;; esac
exec {bwrap} "$@"
"""


def test_a_sandbox_that_fails_once_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sandbox for a learner's function does not start. The exercise is tried again, and passes."""
    flag, program = tmp_path / "flag", tmp_path / "bin" / "bwrap"
    write(program, FAILS.format(flag=flag, bwrap=sandbox_or_skip().program)).chmod(0o755)
    write(tmp_path / "submissions" / "ada" / "00.ipynb", notebook(SOLVED))
    flag.touch()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    summary = run(tmp_path, sandboxed=True)
    assert not flag.exists()
    score = score_of(summary)
    assert (numbers(summary), score.attempts, score.points.reached) == ((1, 0, 0), 1, EXERCISE.points)


def test_a_failure_of_the_first_try_of_the_sandbox_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox_or_skip()
    path = write(tmp_path / "00.ipynb", notebook(STUB))
    task = GradeTask(path, digest(path), (EXERCISE.name,))
    monkeypatch.setattr(sandbox_module, "_tried", functools.cache(sandbox_module._tried.__wrapped__))
    with monkeypatch.context() as patch:
        patch.setattr(sandbox_module, "_problem", lambda program: "no memory")
        failed, _ = answers(task)
    assert isinstance(failed, Verdict)
    assert failed.verdict == UNGRADED
    assert "no memory" in failed.message
    verdict, _ = answers(task)
    assert isinstance(verdict, Verdict)
    assert verdict.verdict == NOT_ATTEMPTED
    with monkeypatch.context() as patch:
        patch.setattr(sandbox_module, "_problem", lambda program: "no memory")
        assert sandbox_module.need_sandbox(), "a success is remembered"


def test_a_right_answer_that_cannot_be_computed_is_no_fault_of_the_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "00.ipynb", notebook(SOLVED))

    def fails(answer: Answer, seed: int) -> list[Any]:
        raise RuntimeError("the server died")

    monkeypatch.setattr(Answer, "expected", fails)
    verdict, _ = answers(GradeTask(path, digest(path), (EXERCISE.name,), sandboxed=has_sandbox()))
    assert isinstance(verdict, Verdict)
    assert verdict.verdict == UNGRADED
    assert "the server died" in verdict.message


def test_an_error_that_a_notebook_can_cause_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> Any:
        raise RecursionError("too deep")

    path = write(tmp_path / "00.ipynb", notebook(STUB))
    monkeypatch.setattr("labkit.gradebook.grader.check_submission", fails)
    verdict, _ = answers(GradeTask(path, digest(path), (EXERCISE.name,), sandboxed=False))
    assert isinstance(verdict, Verdict)
    assert (verdict.verdict, verdict.cause) == (FAILED, ERROR)


def test_a_notebook_whose_reader_is_killed_is_read_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an older notebook would be graded in its place, and use up the learner's only attempt."""
    write(place / "submissions" / "ada" / "new" / "00.ipynb", notebook(text_cells=("def kv_cache_bytes(): def weight_gib():",)))
    killer = Killer(monkeypatch, learner="new", times=1, kind=ReadTask)
    score = score_of(run(place))
    assert killer.given == 2
    assert score.attempt is not None
    assert score.attempt.file == "new/00.ipynb"


def test_a_notebook_that_cannot_be_read_twice_holds_back_the_older_ones(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older notebook is not graded in its place, the exports give no grade, and the next run grades the newer one."""
    newer = notebook(text_cells=("def kv_cache_bytes(): def weight_gib():",))
    write(place / "submissions" / "ada" / "new" / "00.ipynb", newer)
    with monkeypatch.context() as patch:
        Killer(patch, learner="new", times=2, kind=ReadTask)
        summary = run(place)
    assert numbers(summary) == (1, 0, 1)
    score = score_of(summary)
    assert (score.attempt, score.verdict, score.is_waiting) == (None, UNGRADED, True)
    assert any(
        "No notebook was graded in this run, because new/00.ipynb" in note.text for note in summary.report.notes_on("ada")
    )
    (_, _, ada, bert) = (place / "grades" / "canvas.csv").read_text().splitlines()
    assert (ada.split(",")[-1], bert.split(",")[-1]) == ("", "0")
    (_, ada, _) = (place / "grades" / "moodle.csv").read_text().splitlines()
    assert ada == "ada,,"
    again = run(place)
    assert numbers(again) == (1, 1, 0)
    attempt = score_of(again).attempt
    assert attempt is not None
    assert (attempt.file, attempt.number) == ("new/00.ipynb", 1)


def test_a_submission_that_failed_before_comes_last(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook that makes graders hang in every run keeps nobody else waiting."""
    with monkeypatch.context() as patch:
        Killer(patch, times=2)
        run(place)
    write(place / "submissions" / "carl" / "00.ipynb", NAMED)
    watcher = Watcher()
    run(place, watcher)
    assert [told[0] for told in watcher.told if len(told) == 2] == ["carl", "ada"]
