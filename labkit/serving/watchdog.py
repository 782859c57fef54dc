"""Looks after the models of a server: one that does not answer is loaded anew, while the server goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.serving.probes import Probes

LOOK_SECONDS = 2.0


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
    """A thread that asks each model in turn, one every `look_seconds / len(models)`; `repairs` is what it had to do.

    A model that others are built of is mended before they are asked, since they are asked behind it.
    """

    def __init__(self, probes: Probes, models: Sequence[str], look_seconds: float = LOOK_SECONDS) -> None:
        self.repairs: list[Repair] = []
        self._probes, self._models, self._pause = probes, list(models), look_seconds / max(1, len(models))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labkit watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            for model in self._models:
                if self._ended.wait(self._pause):
                    return
                if not self._probes.answers(model) and not self._ended.is_set():
                    self._repair(model)

    def _repair(self, model: str) -> None:
        when, began = time.time(), time.monotonic()
        failure = ""
        try:
            self._probes.reload(model)
        except NotAvailable as error:
            failure = str(error)
        self.repairs.append(Repair(model, when, time.monotonic() - began, failure))
