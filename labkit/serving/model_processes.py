"""The processes in which a server runs its models: whether they have ended, which Triton itself finds out only by and by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil


class ModelProcesses:
    """Of the models of a server that are loaded; an ensemble has none."""

    def __init__(self, server: int, repository: Path, models: Sequence[str]) -> None:
        self._server, self._repository = server, repository
        self._of = {model: self._find(model) for model in models}

    def have_ended(self, model: str) -> bool:
        """Whether a model that had processes when it was last looked at has none now."""
        if not self._of.get(model) or any(map(is_there, self._of[model])):
            return False
        if found := self._find(model):
            self._of[model] = found
        return not found

    def look_at(self, model: str) -> None:
        """Note the processes that a model has now, if any."""
        self._of[model] = self._find(model)

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


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
