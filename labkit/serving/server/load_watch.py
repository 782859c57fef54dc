"""Notices if a model's process ends while the model is being loaded. Triton itself would wait for this process forever."""

from __future__ import annotations

import time

import psutil

GRACE_SECONDS = 3.0
"""How many seconds a server gets to collect the exit status of a process that reports an error and then ends.

A server usually needs much less time.
"""

LOOK_SECONDS = 0.25


class LoadWatch:
    """Watches the processes that a server starts from now on."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._old = set(self._ended())
        self._since: dict[int, float] = {}
        self._looked = 0.0

    def has_lost_one(self) -> bool:
        """Whether a process has ended and the server has not noticed for `GRACE_SECONDS`."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        ended = self._ended() - self._old
        self._since = {pid: self._since.get(pid, now) for pid in ended}
        return any(now - since > GRACE_SECONDS for since in self._since.values())

    def _ended(self) -> set[int]:
        try:
            children = psutil.Process(self._server).children()
        except psutil.Error:
            return set()
        return {child.pid for child in children if _is_zombie(child)}


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
