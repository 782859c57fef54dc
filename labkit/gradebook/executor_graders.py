"""Grades with any `concurrent.futures.Executor`, for example on the machines of a Dask cluster.

A task is one notebook, and its answer is the list of all messages, so progress is reported only after each notebook. An
executor can run a task in a thread, where no time limit can interrupt it, or in a process that `multiprocessing` does not allow
to start processes. So each notebook is checked in a new process (`labkit.gradebook.grade_process`). Reading a notebook is
quick, so a task that only reads a notebook starts no process.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType

from labkit.errors import NotAvailable
from labkit.gradebook.grader import Message, ReadTask, Task, answers
from labkit.gradebook.graders import SILENT_SECONDS, Lost
from labkit.grading.shorten import shorten
from labkit.grading.workers import kill_with_descendants
from labkit.plurals import counted

Messages = list[Message | Lost]


class ExecutorGraders:
    """Gives up to `at_once` tasks at a time to an executor. Use it as a context manager, in place of `Graders`.

    When the context ends, tasks that were given to the executor but have not started are cancelled. The executor is not shut
    down.
    """

    def __init__(self, executor: Executor, at_once: int) -> None:
        self._executor = executor
        self._at_once = at_once
        self._given: dict[Future[Messages], int] = {}
        self._done: SimpleQueue[Future[Messages]] = SimpleQueue()

    def __enter__(self) -> ExecutorGraders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for future in self._given:
            future.cancel()

    def run(self, tasks: Iterable[Task], silent_seconds: float = SILENT_SECONDS) -> Iterator[tuple[int, Message | Lost]]:
        """Yield the messages of all tasks, each with the number of its task (from 0). The last message of a task is `Done` or
        `Lost`.

        A notebook is lost if its check takes more than `silent_seconds` for each exercise, if its task is cancelled, or if the
        executor loses the process that runs it. Raises `NotAvailable` if the executor refuses a task.
        """
        waiting = deque(enumerate(tasks))
        while waiting or self._given:
            while waiting and len(self._given) < self._at_once:
                self._give(*waiting.popleft(), silent_seconds, len(waiting))
            future = self._done.get()
            number = self._given.pop(future)
            for message in _messages_of(future):
                yield number, message

    def _give(self, number: int, task: Task, silent_seconds: float, others: int) -> None:
        there = replace(task, path=task.path.absolute())  # The executor's processes may have another working directory.
        try:
            future = self._executor.submit(all_answers, there, silent_seconds)
        except Exception as error:  # Each kind of executor has its own error for a refused task.
            raise NotAvailable(
                f"the executor takes no more work, with {counted(others + 1, 'notebook')} left ({shorten(repr(error))}); "
                "run the same command again to continue"
            ) from error
        self._given[future] = number
        future.add_done_callback(self._done.put)  # `wait` of `concurrent.futures` would not see a future that is cancelled.


def _messages_of(future: Future[Messages]) -> Messages:
    try:
        return future.result()
    except CancelledError:
        return [Lost("its task was cancelled by the executor", try_again=False)]
    except Exception as error:  # Each kind of executor has its own error for a lost process.
        return [Lost(f"the executor lost its task ({shorten(f'{type(error).__name__}: {error}')})", try_again=False)]


def all_answers(task: Task, silent_seconds: float) -> Messages:
    """All messages that answer a task. An executor runs this function."""
    if isinstance(task, ReadTask):
        return list(answers(task))
    seconds = silent_seconds * len(task.exercises)
    command = [sys.executable, "-m", "labkit.gradebook.grade_process", str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        answer, _ = process.communicate(pickle.dumps(task), timeout=seconds)
    except subprocess.TimeoutExpired:
        return [Lost(f"the check of the notebook took more than {seconds:g} seconds and was ended", try_again=False)]
    finally:
        if process.poll() is None:
            kill_with_descendants(process.pid)
            process.communicate()
    if process.returncode != 0:
        return [Lost(f"the grader's process ended too early (status {process.returncode})")]
    messages: Messages = pickle.loads(answer)
    return messages
