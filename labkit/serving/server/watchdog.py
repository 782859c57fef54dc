"""Looks after the models of a server: one that does not answer is loaded anew, while the server goes on.

Where that would leave requests without an answer, the whole server is to be started anew.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.serving.server.model_processes import ModelProcesses
from labkit.serving.server.probes import Probes

LOOK_SECONDS = 2.0
PROCESS_SECONDS = 0.2
MOST_REPAIRS = 1000
"""That are remembered."""

FEW_REPAIRS = 10
"""Each leaves 35 threads and 1 MiB of shared memory in the server: after so many, one without requests is started anew."""

MANY_REPAIRS = 40
"""After so many a server is started anew although it has requests."""


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
    asked and mended first: often it was one of them. The other sees at once when a process of a model that the server
    calls ready has ended, or has been stopped for a while: what is asked of it waits in the server, which fails one a second
    and keeps the memory of all until then. Who unloads a model of a watched server has it loaded anew.

    begin_anew: told in words why the server has to be: a process ended while it had requests, which Triton would never
    answer, or repairs have left too much in the server. From then on it rests, until `resume`.
    """

    def __init__(
        self,
        probes: Probes,
        models: Sequence[str],
        processes: ModelProcesses,
        look_seconds: float = LOOK_SECONDS,
        begin_anew: Callable[[str], None] | None = None,
    ) -> None:
        self.repairs: deque[Repair] = deque(maxlen=MOST_REPAIRS)
        self._probes, self._models, self._processes = probes, list(models), processes
        self._begin_anew = begin_anew
        self._pause = look_seconds / max(1, len(models))
        self._ended, self._resting = threading.Event(), threading.Event()
        self._mending, self._tries, self._tries_before = threading.Lock(), 0, 0
        self._threads = [
            threading.Thread(target=run, name=f"labkit watchdog of {what}", daemon=True)
            for what, run in (("answers", self._run), ("processes", self._run_processes))
        ]
        for thread in self._threads:
            thread.start()

    def rest(self) -> None:
        """Mend nothing until `resume`: the server has ended, or is just being started."""
        self._resting.set()

    def resume(self, processes: ModelProcesses) -> None:
        """Go on, with the processes of the new server."""
        with self._mending:
            self._processes, self._tries_before = processes, self._tries
        self._resting.clear()

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
            if self._resting.is_set():
                continue
            for model in self._models:
                with self._mending:  # while a model is replaced it may have no process
                    self._processes.kill_stopped(model)
                    if self._processes.have_ended(model) and self._probes.is_live() and self._probes.is_loaded(model):
                        self._repair(model)
            with self._mending:
                self._look_at_repairs()

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
        return self._probes.answers(model) or self._has_nothing_to_do() or not self._probes.is_live()

    def _has_nothing_to_do(self) -> bool:
        return self._ended.is_set() or self._resting.is_set()

    def _repair(self, model: str) -> None:
        if self._has_nothing_to_do():
            return
        self._processes.kill_stopped(model, 0.0)
        if lost := self._processes.waiting_for_ended(model):
            requests = "a request" if lost == 1 else f"{lost} requests"
            if self._ask_to_begin_anew(f"the process of {model} ended with {requests}, which Triton would not answer"):
                return
        when, began = time.time(), time.monotonic()
        failure = ""
        try:
            self._probes.reload(model)
        except NotAvailable as error:
            failure = str(error)
        self._processes.look_at(model)
        self._tries += 1
        if not self._has_nothing_to_do():
            self.repairs.append(Repair(model, when, time.monotonic() - began, failure))

    def _look_at_repairs(self) -> None:
        repairs = self._tries - self._tries_before
        if repairs >= MANY_REPAIRS or (repairs >= FEW_REPAIRS and not self._processes.in_flight()):
            self._ask_to_begin_anew(f"models were loaded anew in it, {repairs} in all, and each left threads and memory")

    def _ask_to_begin_anew(self, why: str) -> bool:
        """Whether there is somebody to do it."""
        if self._begin_anew is None or self._has_nothing_to_do():
            return False
        self.rest()
        self._begin_anew(why)
        return True
