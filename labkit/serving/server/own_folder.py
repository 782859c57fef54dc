"""Temporary folders that end with their owner: one whose owner was killed is deleted by whoever comes next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from labkit.serving.access import withdraw_secret
from labkit.serving.private_folder import private_folder
from labkit.serving.run_folder import run_folder_path

PREFIX = "labkit-run-"
"""Of every such folder's name. The owner holds a lock on the folder, which the system takes back when the owner ends."""

REGIONS, PID = "regions", "pid"
"""Files in a server's folder: how the names of its shared memory begin, and its process id."""


class OwnFolder:
    """A new temporary folder, for this user alone, that belongs to this process; `lock` may be handed to another one.

    The folder is deleted by `delete`; or, once every process that holds the lock has ended, by a `sweep`.
    """

    def __init__(self, kind: str) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=private_folder()))
            self.lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            # Between the two lines above a sweep may have taken the folder for a leftover: then another one is made.
            if _locked(self.lock) is not False and self.path.exists():
                return
            os.close(self.lock)

    def delete(self) -> None:
        """Delete the folder and all that is in it; again does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def sweep() -> list[Path]:
    """Delete this user's folders whose owners have ended, with the shared memory of their servers; what was deleted.

    A folder whose owner runs is locked, and one on a file system that knows no locks cannot be told from it: both stay.
    """
    swept = []
    for folder in private_folder().glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid() and _locked(lock):
                delete_remains(folder)
                withdraw_secret(folder)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder)
        finally:
            os.close(lock)
    return swept


def server_in(folder: Path) -> int:
    """The process id of the server whose folder this is. Raises `OSError` or `ValueError` before it has been written."""
    return int((folder / PID).read_text())


def delete_remains(folder: Path) -> None:
    """Delete what the ended server of a folder has left elsewhere: processes of its models that go on without it, its shared
    memory, and the folder where its models met."""
    with contextlib.suppress(OSError):
        if regions := (folder / REGIONS).read_text():
            _kill_orphans(regions)
            for region in Path("/dev/shm").glob(f"{regions}*"):
                region.unlink(missing_ok=True)
    with contextlib.suppress(OSError, ValueError):
        pid = server_in(folder)
        if not psutil.pid_exists(pid):
            shutil.rmtree(run_folder_path(pid), ignore_errors=True)


def _kill_orphans(regions: str) -> None:
    """End the processes that were started with the name of such a region, which is longer than what all begin with."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(part.startswith(regions) and part != regions for part in process.cmdline()):
                process.kill()


def _locked(descriptor: int) -> bool | None:
    """Lock a folder: True if that worked, False if another process has the lock, None if there are no locks here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
