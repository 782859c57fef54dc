"""Looks after the models of a server: one that does not answer is loaded anew, while the server goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.serving.model_processes import ModelProcesses
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
    asked and mended first: often it was one of them. The other sees at once when the processes of a model that the server
    calls ready have ended: what is asked of it waits in the server, which fails one a second and keeps the memory of all
    until then. Who unloads a model of a watched server has it loaded anew.
    """

    def __init__(
        self, probes: Probes, models: Sequence[str], processes: ModelProcesses, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self.repairs: deque[Repair] = deque(maxlen=MOST_REPAIRS)
        self._probes, self._models, self._processes = probes, list(models), processes
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
                    if self._processes.have_ended(model) and self._probes.is_live() and self._probes.is_loaded(model):
                        self._repair(model)

    def _look(self, model: str) -> None:
        """Ask a model, and mend it if need be, those that it needs first."""
        before = self._tries
        if self._is_fine(model):
            return
        for needed in self._probes.needs(model):
            self._look(needed)
        asked = self._tries
        if asked != before and self._is_fine(model):
            return
        with self._mending:
            if self._tries == asked:  # else it was mended meanwhile, perhaps
                self._repair(model)

    def _is_fine(self, model: str) -> bool:
        """Whether there is nothing to mend, or nobody to mend it for."""
        return self._probes.answers(model) or self._ended.is_set() or not self._probes.is_live()

    def _repair(self, model: str) -> None:
        if self._ended.is_set():
            return
        when, began = time.time(), time.monotonic()
        failure = ""
        try:
            self._probes.reload(model)
        except NotAvailable as error:
            failure = str(error)
        self._processes.look_at(model)
        self._tries += 1
        if not self._ended.is_set():
            self.repairs.append(Repair(model, when, time.monotonic() - began, failure))
