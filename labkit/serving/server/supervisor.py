"""Keeps a server running: if tritonserver ends by itself, it is restarted on the same ports with the same models."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.serving.server.probes import Probes
from labkit.serving.server.server_process import ServerProcess, StartSettings
from labkit.serving.server.watchdog import Watchdog

LOOK_SECONDS = 0.1
LONGEST_PAUSE = 30.0
MOST_STARTS = 8
"""After this many failed starts in a row the supervisor gives up."""

MOST_RESTARTS = 1000
"""How many restarts are remembered."""


@dataclass(frozen=True)
class Restart:
    """One restart of a tritonserver that had ended.

    number: counted from 1. when: the time when the end was noticed, in seconds since the epoch. seconds: the time from that
    moment until every model answered. why: how tritonserver ended, in words.
    """

    number: int
    when: float
    seconds: float
    why: str


class Supervisor:
    """Starts a tritonserver at once, and starts it again whenever it has ended.

    `ready` waits for the first tritonserver and begins to watch it. `end` ends tritonserver, which is then not restarted.
    restarts: the last `MOST_RESTARTS` restarts. failure: why the supervisor gave up; empty until then.

    After tritonserver has ended, it is restarted at once. Each failed start doubles the pause before the next start, from 1 s
    up to `LONGEST_PAUSE`; after `MOST_STARTS` failed starts the supervisor gives up.
    """

    def __init__(self, start: StartSettings, probes: Probes, models: Sequence[str], progress: Callable[[str], None]) -> None:
        self.restarts: deque[Restart] = deque(maxlen=MOST_RESTARTS)
        self.failure = ""
        self.watchdog: Watchdog | None = None
        self._settings, self._probes, self._models, self._progress = start, probes, list(models), progress
        self._ended, self._changing = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._told = ""
        self._start_seconds = 0.0
        self.process = ServerProcess(start, probes)

    def ready(self, seconds: float, give_up: Callable[[], bool], *, watch: bool) -> None:
        """Wait until every model has answered; then, if `watch`, begin to watch the server.

        seconds: the time limit of this start and of later starts. Raises `NotAvailable` if the server or a model does not
        start.
        """
        self._start_seconds = seconds
        self.process.wait_until_ready(self._models, time.monotonic() + seconds, self._progress, give_up)
        if not watch:
            return
        if self._models:
            self.watchdog = Watchdog(
                self._probes, self._models, self.process.processes(self._models), restart_server=self.restart
            )
        self._thread = threading.Thread(target=self._run, name="labkit supervisor", daemon=True)
        self._thread.start()

    def restart(self, why: str) -> None:
        """End the server, so that its waiting clients get an error. The server is then started again."""
        self._told = why
        self.process.kill()

    def end(self) -> None:
        """End the server and its watchdog, even during a start, and delete the server's folder. A second call does nothing."""
        self._ended.set()
        if self.watchdog:
            self.watchdog.end()
        with self._changing:  # no other server is started from here on
            self.process.end()
        if self._thread and threading.current_thread() is not self._thread:
            self._thread.join()
        self._settings.folder.delete()

    def _run(self) -> None:
        while not self.failure and not self._ended.wait(LOOK_SECONDS):
            if self.process.guardian.poll() is not None:
                try:
                    self._start_again()
                except Exception as error:  # without this thread nothing would be restarted, so the caller must learn of it
                    self.failure = f"{self._why()}, and could not be started again: {type(error).__name__}: {error}"

    def _start_again(self) -> None:
        when, began = time.time(), time.monotonic()
        if self.watchdog:
            self.watchdog.rest()
        why = self._why()
        self._say(f"{why}; it is being started again")
        for failed in range(MOST_STARTS):
            if self._ended.wait(min(LONGEST_PAUSE, 2.0 ** (failed - 1)) if failed else 0.0):
                return
            try:
                self._start()
            except (NotAvailable, OSError) as error:  # OSError: no room for a file, or no more processes
                self._say(f"start {failed + 1} of {MOST_STARTS} failed: {error}")
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
            self.process = ServerProcess(self._settings, self._probes)
        until = time.monotonic() + self._start_seconds
        try:
            self.process.wait_until_ready(self._models, until, lambda words: None, self._ended.is_set)
        except BaseException:
            self.process.end()
            raise

    def _say(self, words: str) -> None:
        """Report to the caller. A report that cannot be written, for example to a closed terminal, is lost."""
        with contextlib.suppress(OSError):
            self._progress(words)

    def _why(self) -> str:
        if self._told:
            return f"tritonserver was ended: {self._told}"
        last = self.process.last_words()
        said = f"the last line of its log: {last}" if last else "its log says nothing"
        return f"{self.process.how_it_ended()}; it is not known which request caused this; {said}"
