"""Looks after the models of a server: one that does not answer is loaded anew, while the server goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.serving.probes import Probes

LOOK_SECONDS = 2.0
PROCESS_SECONDS = 0.2
MOST_REPAIRS = 1000
"""That are remembered."""


@dataclass(frozen=True)
class Repair:
    """A model that did not answer and was loaded anew: when (seconds since the epoch), how long it took, and how it went.

    `failure` is empty when the model answers again.
    """

    model: str
    when: float
    seconds: float
    failure: str = ""


class Watchdog:
    """Two threads; `repairs` is what they had to do, the last `MOST_REPAIRS` of it.

    One asks each model in turn, one every `look_seconds / len(models)`. Where a model does not answer, those that it needs are
    asked and mended first: often it was one of them. The other sees at once when a model's processes have ended: what is asked
    of such a model waits in the server, which fails one a second and keeps the memory of all until then.
    """

    def __init__(
        self,
        probes: Probes,
        models: Sequence[str],
        have_ended: Callable[[str], bool] = lambda model: False,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self.repairs: deque[Repair] = deque(maxlen=MOST_REPAIRS)
        self._probes, self._models, self._have_ended = probes, list(models), have_ended
        self._pause = look_seconds / max(1, len(models))
        self._ended = threading.Event()
        self._mending, self._tries = threading.Lock(), 0
        self._threads = [
            threading.Thread(target=run, name=f"labkit watchdog of {what}", daemon=True)
            for what, run in (("answers", self._run), ("processes", self._run_processes))
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Look no more; what it is just doing goes on."""
        self._ended.set()

    def stop(self) -> None:
        """Look no more, and wait until it is done."""
        self.end()
        for thread in self._threads:
            if threading.current_thread() is not thread:
                thread.join()

    def _run(self) -> None:
        while self._models:
            for model in self._models:
                if self._ended.wait(self._pause):
                    return
                self._look(model)

    def _run_processes(self) -> None:
        while not self._ended.wait(PROCESS_SECONDS):
            for model in self._models:
                with self._mending:  # while a model is replaced it may have no process
                    if self._have_ended(model) and not self._ended.is_set() and self._probes.is_live():
                        self._repair(model)

    def _look(self, model: str) -> None:
        """Ask a model, and mend it if need be, those that it needs first."""
        tries = self._tries
        if self._probes.answers(model) or self._ended.is_set() or not self._probes.is_live():
            return
        for needed in self._probes.needs(model):
            self._look(needed)
        with self._mending:
            if self._tries == tries or not self._probes.answers(model):
                self._repair(model)

    def _repair(self, model: str) -> None:
        when, began = time.time(), time.monotonic()
        failure = ""
        try:
            self._probes.reload(model)
        except NotAvailable as error:
            failure = str(error)
        self._tries += 1
        if not self._ended.is_set():
            self.repairs.append(Repair(model, when, time.monotonic() - began, failure))
