"""The processes in which a server runs its models, and whether they have ended. Triton itself notices an end late."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from labkit.errors import LabkitError
from labkit.serving.in_flight import count_in_flight
from labkit.serving.metrics import read_metrics
from labkit.serving.shared_folder import shared_folder_path

STOPPED_SECONDS = 2.0
"""A process that is stopped (SIGSTOP) for longer than this counts as ended: its requests get no answer."""

FAILED_IN_TIME = 2
"""This many requests may wait for a model without a process: Triton itself answers one of these requests per second with an
error.
"""


class ModelProcesses:
    """The processes of a server's loaded models; an ensemble has no process. metrics: HOST:PORT of the server's metrics."""

    def __init__(self, server: int, repository: Path, models: Sequence[str], metrics: str) -> None:
        self._server, self._repository, self._metrics = server, repository, metrics
        self._of = {model: self._find(model) for model in models}
        self._stopped_since: dict[psutil.Process, float] = {}

    def have_ended(self, model: str) -> bool:
        """Whether a known process of a model has ended and no new process has replaced it."""
        known = self._of.get(model, [])
        if all(map(is_alive, known)):
            return False
        found = self._find(model)
        if new := [process for process in found if process not in known]:
            self._of[model] = new
        return not new

    def are_missing(self, model: str) -> bool:
        """Whether a model has Python code but no process."""
        return any((self._repository / model).glob("*/model.py")) and not self._find(model)

    def note(self, model: str) -> None:
        """Remember the processes that a model has now, if any."""
        self._of[model] = self._find(model)

    def kill_stopped(self, model: str, seconds: float = STOPPED_SECONDS) -> None:
        """Kill a model's processes that have been stopped for `seconds`, unless the server itself is stopped.

        If a model were reloaded while its old process is stopped, the old process would crash the server when it continues.
        """
        for process in self._of.get(model, []):
            if not _is_stopped(process):
                self._stopped_since.pop(process, None)
            elif time.monotonic() - self._stopped_since.setdefault(process, time.monotonic()) >= seconds:
                with contextlib.suppress(psutil.Error):
                    if not _is_stopped(psutil.Process(self._server)):
                        _kill(process)

    def kill(self, model: str) -> None:
        """Kill a model's processes."""
        for process in self._of.get(model, []):
            _kill(process)

    def waiting_for_ended(self, model: str) -> int:
        """The number of requests that get no answer or a late answer, because the process that had accepted them has ended."""
        ended = [process.pid for process in self._of.get(model, []) if not is_alive(process)]
        lost = count_in_flight(shared_folder_path(self._server), ended)
        if ended and (waiting := self._waiting(model)) > FAILED_IN_TIME:
            lost += waiting
        return lost

    def in_flight(self) -> int:
        """The number of requests that wait, plus the requests that labkit's models have accepted but not answered."""
        return count_in_flight(shared_folder_path(self._server)) + sum(self._waiting(model) for model in self._of)

    def _waiting(self, model: str) -> int:
        try:
            metrics = read_metrics(self._metrics, timeout=2.0)
        except LabkitError:
            return 0
        return int(metrics.total("nv_inference_pending_request_count", model=model))

    def _find(self, model: str) -> list[psutil.Process]:
        """The processes that were started with the model's code. While a model is being replaced, it may have two processes."""
        folder, found = f"{self._repository / model}/", []
        try:
            for process in psutil.Process(self._server).children(recursive=True):
                if is_alive(process) and any(part.startswith(folder) for part in _command(process)):
                    found.append(process)
        except psutil.Error:
            return []
        return found


def _kill(process: psutil.Process) -> None:
    """Kill a process, and wait up to a second for its end."""
    with contextlib.suppress(psutil.Error):
        process.kill()
        process.wait(1.0)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process is running. A zombie, whose exit status nobody has read yet, does not count as running."""
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
