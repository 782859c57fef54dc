"""Makes temporary folders, each locked by its owner process. If the owner is killed, the next `sweep` deletes the folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from labkit.serving.access import withdraw_secret
from labkit.serving.server.server_folder import delete_remains
from labkit.serving.user_folder import user_folder

PREFIX = "labkit-run-"
"""The names of all these folders begin with this text. The system releases the lock on a folder when its owner ends."""


class LockedFolder:
    """A new temporary folder for this user alone. This process owns the folder and holds the folder's lock.

    The owner deletes the folder with `delete`. If the owner does not delete the folder, a `sweep` deletes it after every
    process that holds the lock has ended.
    lock: a file descriptor, which can be passed to another process.
    """

    def __init__(self, kind: str) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=user_folder()))
            self.lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            # A sweep may have deleted the folder between the two lines above. Then another folder is made.
            if _locked(self.lock) is not False and self.path.exists():
                return
            os.close(self.lock)

    def delete(self) -> None:
        """Delete the folder and everything in it. A second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def sweep() -> list[Path]:
    """Delete this user's folders whose owners have ended, and the shared memory of their servers; returns the folders.

    Folders that are still locked are kept, and so are folders on a file system without locks.
    """
    swept = []
    for folder in user_folder().glob(f"{PREFIX}*"):
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


def _locked(descriptor: int) -> bool | None:
    """Try to lock a folder: True on success, False if another process has the lock, None if locks are not supported."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
