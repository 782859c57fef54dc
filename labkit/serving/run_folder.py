"""Where the models of one server find each other: sockets of the engines, and notes of those that are being loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from labkit.errors import NotAvailable
from labkit.serving.private_folder import private_folder

NO_SIGN_SECONDS = 20.0
"""An engine that has not even begun to load by then is not going to."""


def run_folder(server_pid: int) -> Path:
    """The folder of a server, for this user alone; made when it is missing. Raises `NotAvailable` if it is not safe."""
    folder = run_folder_path(server_pid)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def run_folder_path(server_pid: int) -> Path:
    """Where the folder of a server is, or would be."""
    return private_folder() / str(server_pid)


class EngineNote:
    """What an engine leaves in the run's folder: that it is being loaded, that it could not be, or its socket."""

    def __init__(self, folder: Path, name: str) -> None:
        self.socket = folder / f"{name}.sock"
        self._loading, self._failed = folder / f"{name}.loading", folder / f"{name}.failed"

    def say_loading(self) -> None:
        """Loading has begun."""
        self._failed.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        self._loading.write_text(str(os.getpid()))

    def say_ready(self) -> None:
        """The socket answers."""
        self._loading.unlink(missing_ok=True)

    def say_failed(self, why: str) -> None:
        """It could not be loaded."""
        self._failed.write_text(why)
        self._loading.unlink(missing_ok=True)


def sockets(folder: Path) -> list[Path]:
    """Of the engines that are loaded."""
    return sorted(folder.glob("*.sock"))


def wait_for_engine(folder: Path) -> None:
    """Until one is loaded, as long as one is being loaded. Raises `NotAvailable` with what went wrong."""
    until = time.monotonic() + NO_SIGN_SECONDS
    while not sockets(folder):
        if failed := sorted(folder.glob("*.failed")):
            raise NotAvailable(f"the model gptj could not be loaded: {failed[0].read_text()}")
        if time.monotonic() > until and not any(map(_is_loading, folder.glob("*.loading"))):
            raise NotAvailable("the model gptj, which has the engine, is not loaded; load it first")
        time.sleep(0.02)


def _is_loading(note: Path) -> bool:
    """Whether the process that wrote a note is still there; one that was killed leaves its note behind."""
    try:
        return psutil.pid_exists(int(note.read_text()))
    except (OSError, ValueError):  # just deleted, or just being written
        return note.exists()
