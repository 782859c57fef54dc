"""Files in a server's shared folder, through which the model `fastertransformer` finds the engines of the model `gptj`.

The files are notes about loading, and sockets.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from labkit.errors import NotAvailable

NO_SIGN_SECONDS = 20.0
"""If no engine has begun to load after this many seconds, none is expected any more."""


class EngineNote:
    """The files of one engine in the shared folder: "loading", "failed", or its socket when it is ready."""

    def __init__(self, folder: Path, name: str) -> None:
        self.socket = folder / f"{name}.sock"
        self._loading, self._failed = folder / f"{name}.loading", folder / f"{name}.failed"

    def say_loading(self) -> None:
        """Record that loading has begun."""
        self._failed.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        self._loading.write_text(str(os.getpid()))

    def say_ready(self) -> None:
        """Record that the engine is ready, so that its socket answers."""
        self._loading.unlink(missing_ok=True)

    def say_failed(self, why: str) -> None:
        """Record that the engine could not be loaded, and why."""
        self._failed.write_text(why)
        self._loading.unlink(missing_ok=True)


def engine_sockets(folder: Path) -> list[Path]:
    """The sockets of the engines that are loaded."""
    return sorted(folder.glob("*.sock"))


def wait_for_engine(folder: Path) -> None:
    """Wait until an engine is loaded. Raises `NotAvailable` if an engine failed to load, or if none is being loaded."""
    until = time.monotonic() + NO_SIGN_SECONDS
    while not engine_sockets(folder):
        if failed := sorted(folder.glob("*.failed")):
            raise NotAvailable(f"the model gptj could not be loaded: {failed[0].read_text()}")
        if time.monotonic() > until and not any(map(_is_loading, folder.glob("*.loading"))):
            raise NotAvailable("the model gptj, which has the engine, is not loaded; load it first")
        time.sleep(0.02)


def _is_loading(note: Path) -> bool:
    """Whether the process that wrote a note still exists. The note of a killed process is not deleted."""
    try:
        return psutil.pid_exists(int(note.read_text()))
    except (OSError, ValueError):  # the file was just deleted, or is being written
        return note.exists()
