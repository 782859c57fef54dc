"""The processes in which a server runs its models: whether they have ended, which Triton itself finds out only by and by."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from labkit.errors import LabkitError
from labkit.serving.in_flight import in_flight
from labkit.serving.metrics import read_metrics
from labkit.serving.run_folder import run_folder_path

STOPPED_SECONDS = 2.0
"""That a process may be stopped (SIGSTOP) until it counts as ended: its requests wait, and nobody else takes them."""

FAILED_IN_TIME = 2
"""Requests that may wait for a model without a process: Triton fails them itself, one a second."""


class ModelProcesses:
    """Of the models of a server that are loaded; an ensemble has none. metrics: the address of the server's metrics."""

    def __init__(self, server: int, repository: Path, models: Sequence[str], metrics: str) -> None:
        self._server, self._repository, self._metrics = server, repository, metrics
        self._of = {model: self._find(model) for model in models}
        self._stopped_since: dict[psutil.Process, float] = {}

    def have_ended(self, model: str) -> bool:
        """Whether one of the processes that a model had when it was last looked at has ended, and none has replaced it."""
        known = self._of.get(model, [])
        if all(map(is_there, known)):
            return False
        found = self._find(model)
        if new := [process for process in found if process not in known]:
            self._of[model] = new
        return not new

    def are_missing(self, model: str) -> bool:
        """Whether a model that runs code of Python's has no process."""
        return any((self._repository / model).glob("*/model.py")) and not self._find(model)

    def look_at(self, model: str) -> None:
        """Note the processes that a model has now, if any."""
        self._of[model] = self._find(model)

    def kill_stopped(self, model: str, seconds: float = STOPPED_SECONDS) -> None:
        """End those that have been stopped for so long, while their server is not: a model that is loaded anew beside a
        stopped process of its own brings the server down when that process goes on."""
        for process in self._of.get(model, []):
            if not _is_stopped(process):
                self._stopped_since.pop(process, None)
            elif time.monotonic() - self._stopped_since.setdefault(process, time.monotonic()) >= seconds:
                with contextlib.suppress(psutil.Error):
                    if not _is_stopped(psutil.Process(self._server)):
                        process.kill()
                        process.wait(1.0)

    def waiting_for_ended(self, model: str) -> int:
        """Requests that will not be answered, or not soon, because the process that has them has ended."""
        ended = [process.pid for process in self._of.get(model, []) if not is_there(process)]
        lost = in_flight(run_folder_path(self._server), ended)
        if ended and (waiting := self._waiting(model)) > FAILED_IN_TIME:
            lost += waiting
        return lost

    def in_flight(self) -> int:
        """Requests that any model has taken or lets wait; what a learner's own model has taken is not known."""
        return in_flight(run_folder_path(self._server)) + sum(self._waiting(model) for model in self._of)

    def _waiting(self, model: str) -> int:
        try:
            metrics = read_metrics(self._metrics, timeout=2.0)
        except LabkitError:
            return 0
        return int(metrics.total("nv_inference_pending_request_count", model=model))

    def _find(self, model: str) -> list[psutil.Process]:
        """Those that were started with the model's code; of one that is being replaced, both."""
        folder, found = f"{self._repository / model}/", []
        try:
            for process in psutil.Process(self._server).children(recursive=True):
                if is_there(process) and any(part.startswith(folder) for part in _command(process)):
                    found.append(process)
        except psutil.Error:
            return []
        return found


def is_there(process: psutil.Process) -> bool:
    """Whether a process runs; not if it has ended and nobody has asked for its status yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
