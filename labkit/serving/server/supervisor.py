"""Keeps a server running: a tritonserver that has ended by itself is started again, on the same ports, with its models."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.serving.server.probes import Probes
from labkit.serving.server.server_process import Launch, ServerProcess
from labkit.serving.server.watchdog import Watchdog

LOOK_SECONDS = 0.1
LONGEST_PAUSE = 30.0
MOST_STARTS = 8
"""That may fail in a row; then it gives up."""

MOST_RESTARTS = 1000
"""That are remembered."""


@dataclass(frozen=True)
class Restart:
    """A tritonserver that ended and was started again.

    number: 1 for the first. when: it was found to have ended, in seconds since the epoch. seconds: from then until every
    model answered. why: how it ended, in words.
    """

    number: int
    when: float
    seconds: float
    why: str


class Supervisor:
    """A tritonserver, and after it has ended the next one; the first is started at once.

    `ready` waits for the first one and begins to watch. `end` ends everything. restarts: what it had to do, the last
    `MOST_RESTARTS`. failure: why it gave up, empty as long as it has not.

    The first start after an end comes at once; each one that fails doubles the pause before the next, from 1 s to
    `LONGEST_PAUSE`, and after `MOST_STARTS` of them it gives up.
    """

    def __init__(self, launch: Launch, probes: Probes, models: Sequence[str], progress: Callable[[str], None]) -> None:
        self.restarts: deque[Restart] = deque(maxlen=MOST_RESTARTS)
        self.failure = ""
        self.watchdog: Watchdog | None = None
        self._launch, self._probes, self._models, self._progress = launch, probes, list(models), progress
        self._ended, self._changing = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._told = ""
        self._start_seconds = 0.0
        self.process = ServerProcess(launch, probes)

    def ready(self, seconds: float, give_up: Callable[[], bool], *, watch: bool) -> None:
        """Wait until every model has answered; watch the server from then on, or not. Raises `NotAvailable`."""
        self._start_seconds = seconds
        self.process.wait_until_ready(self._models, time.monotonic() + seconds, self._progress, give_up)
        if not watch:
            return
        if self._models:
            self.watchdog = Watchdog(
                self._probes, self._models, self.process.processes(self._models), begin_anew=self.begin_anew
            )
        self._thread = threading.Thread(target=self._run, name="labkit supervisor", daemon=True)
        self._thread.start()

    def begin_anew(self, why: str) -> None:
        """End the server, whose clients get an error, and start it again."""
        self._told = why
        self.process.kill()

    def end(self) -> None:
        """End the server, or the start that is under way, and everything around it; again does nothing."""
        self._ended.set()
        if self.watchdog:
            self.watchdog.end()
        with self._changing:  # no other one is started from here on
            self.process.end()
        if self._thread and threading.current_thread() is not self._thread:
            self._thread.join()
        self._launch.folder.delete()

    def _run(self) -> None:
        while not self.failure and not self._ended.wait(LOOK_SECONDS):
            if self.process.guardian.poll() is not None:
                self._start_again()

    def _start_again(self) -> None:
        when, began = time.time(), time.monotonic()
        if self.watchdog:
            self.watchdog.rest()
        why = self._why()
        self._progress(f"{why}; it is started again")
        for failed in range(MOST_STARTS):
            if self._ended.wait(min(LONGEST_PAUSE, 2.0 ** (failed - 1)) if failed else 0.0):
                return
            try:
                self._start()
            except NotAvailable as error:
                self._progress(f"start {failed + 1} of {MOST_STARTS} failed: {error}")
                self.failure = f"{why}, and could not be started again: {error}" if failed + 1 == MOST_STARTS else ""
                continue
            number = self.restarts[-1].number + 1 if self.restarts else 1
            self.restarts.append(Restart(number, when, time.monotonic() - began, why))
            if self.watchdog:
                self.watchdog.resume(self.process.processes(self._models))
            return

    def _start(self) -> None:
        self._told = ""
        with self._changing:
            if self._ended.is_set():
                return
            self.process = ServerProcess(self._launch, self._probes)
        until = time.monotonic() + self._start_seconds
        try:
            self.process.wait_until_ready(self._models, until, lambda words: None, self._ended.is_set)
        except NotAvailable:
            self.process.end()
            raise

    def _why(self) -> str:
        if self._told:
            return f"tritonserver was ended: {self._told}"
        last = self.process.last_words()
        said = f"the last line of its log: {last}" if last else "its log says nothing"
        return f"{self.process.how_it_ended()}; which request did it is not known; {said}"
