"""Runs several graders at once, and starts a new one when a grader's process ends or says nothing for too long."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

from labkit.gradebook.grader import Done, Message, Task, serve
from labkit.grading.workers import kill_with_descendants

SILENT_SECONDS = 1800.0
"""A grader that sends no message for this many seconds is ended. The time limits of a single exercise are much shorter."""
_END_SECONDS = 30.0
"""How many seconds a grader gets to end by itself before it is killed."""


@dataclass(frozen=True)
class Lost:
    """The grader's process ended, or was ended, before its task was done. `why` is the reason in words.

    `try_again` says whether the same run should try the task once more. It is false if the task took too long, or if an
    executor cancelled or lost it.
    """

    why: str
    try_again: bool = True


class _Grader:
    """A grader's process, its connection, and the number of its task. If the number is None, the grader is idle."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=serve, args=(theirs,))
        with _without_interrupts():
            self.process.start()
        theirs.close()
        self.task: int | None = None
        self.is_new = True
        self.heard = time.monotonic()

    def give(self, number: int, task: Task) -> bool:
        """Give the grader a task. Returns whether the grader has the task; False means that it ended while it was idle.

        If a new grader has already ended, its task is lost with it: otherwise new graders would be started without end.
        """
        try:
            self.connection.send(task)
        except OSError:
            if not self.is_new:
                return False
        self.task, self.is_new, self.heard = number, False, time.monotonic()
        return True

    def kill(self) -> None:
        """End the process, if it still runs, and all processes that it has started."""
        if self.process.is_alive() and self.process.pid:
            kill_with_descendants(self.process.pid)
        self.process.join(_END_SECONDS)
        self.connection.close()


class Graders:
    """Up to `jobs` graders. Use this class as a context manager; when the context ends, all processes end."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._all: list[_Grader] = []

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for grader in self._all:
            grader.process.terminate()
        until = time.monotonic() + _END_SECONDS
        for grader in self._all:
            grader.process.join(max(until - time.monotonic(), 0))
            grader.kill()

    def run(self, tasks: Iterable[Task], silent_seconds: float = SILENT_SECONDS) -> Iterator[tuple[int, Message | Lost]]:
        """Give each task to a grader, and yield the messages of all graders as they come, each with the number of its task
        (from 0). The last message of a task is `Done` or `Lost`.
        """
        waiting = deque(enumerate(tasks))
        while True:
            problem = self._hand_out(waiting)
            if not (waiting or self._busy()):
                return
            if problem:
                number, _ = waiting.popleft()
                yield number, Lost(f"no process could be started for it: {problem}")
                continue
            busy = {grader.connection: grader for grader in self._busy()}
            for connection in wait(list(busy), timeout=1.0):
                assert isinstance(connection, Connection)
                yield self._message_of(busy.pop(connection))
            for grader in busy.values():
                if time.monotonic() - grader.heard > silent_seconds:
                    words = f"the grader sent nothing for {silent_seconds:g} seconds and was ended"
                    yield self._drop(grader), Lost(words, try_again=False)

    def _busy(self) -> list[_Grader]:
        return [grader for grader in self._all if grader.task is not None]

    def _hand_out(self, waiting: deque[tuple[int, Task]]) -> str:
        """Give tasks to idle graders. Return why no task could be given, and "" if a grader is busy or nothing is waiting."""
        while waiting:
            grader = next((one for one in self._all if one.task is None), None)
            if grader is None and len(self._all) < self._jobs:
                try:
                    grader = _Grader()
                except OSError as error:  # no memory for a process, or too many processes
                    return "" if self._busy() else str(error)
                self._all.append(grader)
            if grader is None:
                break
            if grader.give(*waiting[0]):
                waiting.popleft()
            else:
                self._drop(grader)
        return ""

    def _message_of(self, grader: _Grader) -> tuple[int, Message | Lost]:
        assert grader.task is not None
        number = grader.task
        try:
            message: Message = grader.connection.recv()
        except (EOFError, OSError):
            grader.process.join(_END_SECONDS)
            words = f"the grader's process ended too early (status {grader.process.exitcode})"
            return self._drop(grader), Lost(words)
        grader.heard = time.monotonic()
        if isinstance(message, Done):
            grader.task = None
        return number, message

    def _drop(self, grader: _Grader) -> int:
        """End a grader, and return the number of its task."""
        grader.kill()
        self._all.remove(grader)
        return -1 if grader.task is None else grader.task


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that are started in this block ignore Ctrl-C until they set their own handler."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # Only the main thread may set a handler.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
