"""If a grader dies or hangs, only the task that it had is lost."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from labkit.gradebook import graders as graders_module
from labkit.gradebook.grader import Done, GradeTask, ReadTask, answers
from labkit.gradebook.graders import Graders, Lost
from labkit.gradebook.reading import Reading, digest
from labkit.grading.verdict import NOT_ATTEMPTED, UNGRADED, Verdict
from tests.gradebook.classes import EXERCISE, STUB, notebook, write
from tests.patience import PATIENCE, is_running, wait_for


def test_a_task_whose_grader_dies_ends_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grader is killed as soon as it has the first task, so the second task gets a new grader."""
    paths = [write(tmp_path / f"{name}.ipynb", notebook(STUB)) for name in ("one", "two")]
    real = graders_module._Grader.give

    def give_and_kill(grader: Any, number: int, task: Any) -> bool:
        is_given = real(grader, number, task)
        if number == 0:
            grader.process.kill()
        return is_given

    monkeypatch.setattr(graders_module._Grader, "give", give_and_kill)
    with Graders(1) as graders:
        messages = list(graders.run(map(ReadTask, paths), PATIENCE))
    lost, reading, done = (message for _, message in messages)
    assert lost == Lost("the grader's process ended too early (status -9)")
    assert isinstance(reading, Reading)
    assert isinstance(done, Done)


def test_without_a_process_a_task_is_lost_and_a_running_grader_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "00.ipynb", notebook(STUB))
    real, starts = graders_module._Grader.__init__, iter([False, True, False])

    def start(grader: Any) -> None:
        if not next(starts, False):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        real(grader)

    monkeypatch.setattr(graders_module._Grader, "__init__", start)
    with Graders(2) as graders:
        (first, lost), *others = graders.run([ReadTask(path)] * 3, PATIENCE)
    assert first == 0
    assert isinstance(lost, Lost)
    assert lost.try_again
    assert "no process could be started" in lost.why
    assert "Resource temporarily unavailable" in lost.why
    assert [(number, type(message)) for number, message in others] == [(1, Reading), (1, Done), (2, Reading), (2, Done)]


def test_a_task_whose_grader_says_nothing_is_timed_out(tmp_path: Path) -> None:
    path = write(tmp_path / "00.ipynb", notebook(STUB))
    with Graders(1) as graders:
        ((number, lost),) = graders.run([ReadTask(path)], silent_seconds=0.0)
        assert not graders._all
    assert (number, lost) == (0, Lost("the grader sent nothing for 0 seconds and was ended", try_again=False))


def test_graders_that_die_at_their_start_are_not_started_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = graders_module._Grader.__init__, []

    def start_and_kill(grader: Any) -> None:
        real(grader)
        grader.process.kill()
        grader.process.join()
        started.append(grader)

    monkeypatch.setattr(graders_module._Grader, "__init__", start_and_kill)
    with Graders(1) as graders:
        tasks = [ReadTask(tmp_path / "00.ipynb")] * 2
        messages = [message for _, message in graders.run(tasks, PATIENCE)]
    assert messages == [Lost("the grader's process ended too early (status -9)")] * 2
    assert len(started) == 2


def test_graders_end_with_their_block(tmp_path: Path) -> None:
    with Graders(2) as graders:
        for _ in graders.run([ReadTask(write(tmp_path / "00.ipynb", notebook(STUB)))], PATIENCE):
            pids = [grader.process.pid for grader in graders._all]
    assert pids
    wait_for(lambda: not any(is_running(pid) for pid in pids if pid), "the end of the graders")


def test_a_notebook_that_changed_after_it_was_read_is_not_graded(tmp_path: Path) -> None:
    path = write(tmp_path / "00.ipynb", notebook(STUB))
    sha256 = digest(path)
    verdict, _ = list(answers(GradeTask(path, sha256, (EXERCISE.name,))))
    assert isinstance(verdict, Verdict)
    assert verdict.verdict == NOT_ATTEMPTED
    write(path, notebook(STUB, "x = 1"))
    verdict, end = list(answers(GradeTask(path, sha256, (EXERCISE.name,))))
    assert isinstance(verdict, Verdict)
    assert isinstance(end, Done)
    assert (verdict.verdict, verdict.points) == (UNGRADED, 0)
    assert "changed after it was collected" in verdict.message


@pytest.mark.parametrize("kind", ["gone", "folder"])
def test_a_file_that_cannot_be_read_is_a_problem(kind: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    reading, _ = list(answers(ReadTask(tmp_path / kind)))
    assert isinstance(reading, Reading)
    assert "cannot be read" in reading.problem
    assert reading.labs == {}
