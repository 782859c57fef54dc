"""Watches the models of a server, and reloads a model that does not answer while the server keeps running.

If a reload would leave requests without an answer, the watchdog asks for a restart of the whole server instead.
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
"""How many repairs are remembered."""

FEW_REPAIRS = 10
"""After this many repairs, an idle server is restarted.

Each repair leaves 35 threads and 1 MiB of shared memory in the server.
"""

MANY_REPAIRS = 40
"""After this many repairs, a server is restarted even while it has requests."""


@dataclass(frozen=True)
class Repair:
    """The reload of a model that did not answer.

    when: seconds since the epoch. seconds: how long the reload took. failure: why the reload failed; empty if it succeeded.
    """

    model: str
    when: float
    seconds: float
    failure: str = ""


class Watchdog:
    """Two threads that find and reload broken models. repairs: the last `MOST_REPAIRS` repairs.

    The first thread probes the models in turn, one model every `look_seconds / len(models)` seconds. If a model does not
    answer, the models that it needs are probed and repaired first, because one of them is often the cause. If a step of an
    engine has not ended within `request_seconds`, the process of the engine is killed. The second thread notices at once if the
    process of a ready model has ended, or has been stopped for a while. Requests for a model without a running process would
    wait in the server, which answers only one request per second with an error, and keeps the memory of all other waiting
    requests. If somebody unloads a model of a watched server, the watchdog loads it again.

    restart_server: called with the reason, in words, if the whole server must be restarted. A restart is needed if a process
    has ended after it accepted requests: Triton would never answer these requests. A restart is also needed if repairs have
    left too many threads in the server. After the call the watchdog does nothing until `resume`.
    """

    def __init__(
        self,
        probes: Probes,
        models: Sequence[str],
        processes: ModelProcesses,
        look_seconds: float = LOOK_SECONDS,
        restart_server: Callable[[str], None] | None = None,
    ) -> None:
        self.repairs: deque[Repair] = deque(maxlen=MOST_REPAIRS)
        self._probes, self._models, self._processes = probes, list(models), processes
        self._restart_server = restart_server
        self._pause = look_seconds / max(1, len(models))
        self._ended, self._resting = threading.Event(), threading.Event()
        self._repairing, self._tries, self._tries_before = threading.Lock(), 0, 0
        self._threads = [
            threading.Thread(target=run, name=f"labkit watchdog of {what}", daemon=True)
            for what, run in (("answers", self._run), ("processes", self._run_processes))
        ]
        for thread in self._threads:
            thread.start()

    def rest(self) -> None:
        """Pause repairs until `resume`, because the server has ended or is being started."""
        self._resting.set()

    def resume(self, processes: ModelProcesses) -> None:
        """Continue with the processes of the new server."""
        with self._repairing:
            self._processes, self._tries_before = processes, self._tries
        self._resting.clear()

    def end(self) -> None:
        """Start no further checks; a repair that has begun continues."""
        self._ended.set()

    def stop(self) -> None:
        """Start no further checks, and wait until both threads have ended."""
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
                with self._repairing:  # a model that is being replaced may have no process
                    self._processes.kill_stopped(model)
                    if self._processes.have_ended(model) and self._probes.is_live() and self._probes.is_loaded(model):
                        self._repair(model)
            with self._repairing:
                self._limit_repairs()

    def _look(self, model: str) -> None:
        """Probe a model and repair it if it does not answer. The models that it needs are probed and repaired first."""
        before = self._tries
        if self._is_fine(model):
            return
        for needed in self._probes.needs(model):
            self._look(needed)
        asked = self._tries
        if asked != before and self._is_fine(model):
            return
        with self._repairing:
            if self._tries == asked:  # otherwise the other thread may have repaired the model
                self._repair(model)

    def _is_fine(self, model: str) -> bool:
        """Whether no repair is needed or possible."""
        return self._probes.answers(model) or self._has_nothing_to_do() or not self._probes.is_live()

    def _has_nothing_to_do(self) -> bool:
        return self._ended.is_set() or self._resting.is_set()

    def _repair(self, model: str) -> None:
        if self._has_nothing_to_do():
            return
        self._processes.kill_stopped(model, 0.0)
        if hangs := self._probes.hangs(model):
            self._processes.kill(model)  # Triton would wait forever for its requests
        if lost := self._processes.waiting_for_ended(model):
            requests = "a request" if lost == 1 else f"{lost} requests"
            late = f"a step of {model}'s engine did not end, so its process was killed"
            what = late if hangs else f"the process of {model} ended"
            if self._ask_for_restart(f"{what} while it had {requests}, which Triton would never answer"):
                return
        when, began = time.time(), time.monotonic()
        failure = ""
        try:
            self._probes.reload(model)
        except NotAvailable as error:
            failure = str(error)
        self._processes.note(model)
        self._tries += 1
        if not self._has_nothing_to_do():
            self.repairs.append(Repair(model, when, time.monotonic() - began, failure))

    def _limit_repairs(self) -> None:
        repairs = self._tries - self._tries_before
        if repairs >= MANY_REPAIRS or (repairs >= FEW_REPAIRS and not self._processes.in_flight()):
            self._ask_for_restart(
                f"its models were reloaded {repairs} times, which left unused threads and memory in the server"
            )

    def _ask_for_restart(self, why: str) -> bool:
        """Ask for a restart of the server; returns whether the server will be restarted."""
        if self._restart_server is None or self._has_nothing_to_do():
            return False
        self.rest()
        self._restart_server(why)
        return True
