"""A grader: a process that reads and checks notebooks for the process that holds the gradebook.

The grader gets a task, and answers with one message for each exercise, then with `Done`. A learner's code does not run in the
grader: each function runs in another process (`labkit.grading.workers`).

If the machine fails (no sandbox, a changed or unreadable file, no right answer, no memory), the verdict is "could not be
graded", which is no result: a later run grades again. Every other error could be caused by the learner's notebook, so its
verdict is a final "error".
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from labkit.errors import NotAvailable
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import exercise as find
from labkit.gradebook.reading import Reading, digest, read_notebook
from labkit.gradebook.secret_seeds import seeds_from
from labkit.grading.judge import SEEDS, make, ungraded, without_inputs
from labkit.grading.notebook_check import check_submission
from labkit.grading.sandbox import need_sandbox
from labkit.grading.shorten import shorten
from labkit.grading.submission import Submission, read_submission
from labkit.grading.verdict import ERROR, FAILED, Verdict
from labkit.grading.workers import Workers


@dataclass(frozen=True)
class ReadTask:
    """Read the notebook in this file; the answer is a `Reading`."""

    path: Path


@dataclass(frozen=True)
class GradeTask:
    """Check these exercises (by their full names) of the notebook in this file; the answer is one `Verdict` for each.

    `sha256` is the hash that the submission had when it was read. If there is a `secret`, it decides the inputs of the
    functions. If `sandboxed` is false, the learner's code runs as the current user.
    """

    path: Path
    sha256: str
    exercises: tuple[str, ...]
    secret: str | None = None
    sandboxed: bool = True


@dataclass(frozen=True)
class Done:
    """The task is finished."""


MACHINE_ERRORS = (NotAvailable, OSError, MemoryError)
"""The errors of a check that are failures of the grading machine.

A learner's code cannot raise them in the grader: the errors of a function are part of its outcome, and the errors that an
answer causes when it is read or compared become a verdict (`labkit.grading.notebook_check`).
"""
Task = ReadTask | GradeTask
Message = Reading | Verdict | Done


def serve(connection: Connection) -> None:
    """Answer tasks until the connection is closed. On SIGTERM, or when the parent has ended, the process ends earlier."""
    signal.signal(signal.SIGINT, _ignore)  # Ctrl-C is for the parent, which ends its graders.
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)  # This process prints to stderr, because the parent's stdout is for the parent's results.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            for message in answers(connection.recv()):
                connection.send(message)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing. Unlike `SIG_IGN`, a Python function is not inherited by the programs that this process starts."""


def end(number: int, frame: FrameType | None) -> None:
    """A signal handler that ends this process in the normal way.

    In contrast to a kill, this ends the processes that this process has started, and removes its files.
    """
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """End this process when its parent has ended, even if SIGKILL ended the parent.

    Before this process ends, it ends the processes that run learners' functions and removes their files.
    """
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def answers(task: Task) -> Iterator[Message]:
    """The messages that answer a task. An error does not end the task: it becomes the verdict on the exercise."""
    if isinstance(task, ReadTask):
        yield _read(task.path)
    else:
        yield from _grade(task)
    yield Done()


def _read(path: Path) -> Reading:
    try:
        return read_notebook(path)
    except Exception as error:
        words = shorten(str(error).replace(str(path), "the file") or type(error).__name__)
        return Reading("", "", "", {}, (), f"The notebook cannot be read: {words}")


def _grade(task: GradeTask) -> Iterator[Verdict]:
    exercises = [find(name) for name in task.exercises]
    try:
        if digest(task.path) != task.sha256:
            raise ValueError("the notebook, or a file beside the notebook, changed after it was collected")
        submission = read_submission(task.path)
        sandbox = need_sandbox() if task.sandboxed else None
    except Exception as error:
        for exercise in exercises:
            yield ungraded(exercise, shorten(str(error).replace(str(task.path), "the file") or type(error).__name__))
        return
    with Workers(submission.folder, sandbox) as workers:
        for exercise in exercises:
            yield _check(exercise, submission, task, workers)


def _check(exercise: Exercise, submission: Submission, task: GradeTask, workers: Workers) -> Verdict:
    try:
        seeds = SEEDS if task.secret is None else seeds_from(task.secret, exercise.name)
        verdict = check_submission(exercise, submission, workers, seeds)
        return verdict if task.secret is None else replace(verdict, details=without_inputs(verdict.details))
    except MACHINE_ERRORS as error:
        return ungraded(exercise, shorten(f"{type(error).__name__}: {error}"))
    except Exception as error:
        words = shorten(f"{type(error).__name__}: {error}")
        return make(exercise, FAILED, f"The notebook or its answers cannot be checked: {words}", cause=ERROR)
