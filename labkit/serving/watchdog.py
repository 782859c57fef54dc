"""Looks after the models of a server: one that does not answer is loaded anew, while the server goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.serving.probes import Probes

LOOK_SECONDS = 2.0
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
    """A thread that asks each model in turn, one every `look_seconds / len(models)`; `repairs` is what it had to do, the last
    `MOST_REPAIRS` of it.

    Where a model does not answer, those that it needs are asked and mended first: often it was one of them.
    """

    def __init__(self, probes: Probes, models: Sequence[str], look_seconds: float = LOOK_SECONDS) -> None:
        self.repairs: deque[Repair] = deque(maxlen=MOST_REPAIRS)
        self._probes, self._models, self._pause = probes, list(models), look_seconds / max(1, len(models))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labkit watchdog", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more; what it is just doing goes on."""
        self._ended.set()

    def stop(self) -> None:
        """Look no more, and wait until it is done."""
        self.end()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while self._models:
            for model in self._models:
                if self._ended.wait(self._pause):
                    return
                self._look(model)

    def _look(self, model: str) -> bool:
        """Ask a model, and mend it if need be. Whether it or one that it needs was mended."""
        if self._probes.answers(model) or self._ended.is_set() or not self._probes.is_live():
            return False
        mended = [needed for needed in self._probes.needs(model) if self._look(needed)]
        if not (mended and self._probes.answers(model)):
            self._repair(model)
        return True

    def _repair(self, model: str) -> None:
        when, began = time.time(), time.monotonic()
        failure = ""
        try:
            self._probes.reload(model)
        except NotAvailable as error:
            failure = str(error)
        if not self._ended.is_set():
            self.repairs.append(Repair(model, when, time.monotonic() - began, failure))
