"""Temporary folders, each locked by its owner process, so that other processes can see whether the owner still runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


class LockedFolder:
    """A new folder in `parent` for this user alone, whose name begins with `prefix`. This process holds the folder's lock.

    The owner deletes the folder with `delete`. If the owner is killed, the system releases the lock, and `ended_folders` finds
    the folder after every process that holds the lock has ended.
    lock: a file descriptor, which can be passed to another process.
    """

    def __init__(self, prefix: str, parent: Path) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self.lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            # Another process may have deleted the folder between the two lines above. Then another folder is made.
            if _locked(self.lock) is not False and self.path.exists():
                return
            os.close(self.lock)

    def delete(self) -> None:
        """Delete the folder and everything in it. A second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def ended_folders(prefix: str, parent: Path) -> Iterator[Path]:
    """This user's `LockedFolder`s in `parent` whose owners have ended. Each is locked while the caller deletes it.

    Folders that are still locked are left out, and so are folders on a file system without locks.
    """
    for folder in parent.glob(f"{prefix}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid() and _locked(lock):
                yield folder
        finally:
            os.close(lock)


def _locked(descriptor: int) -> bool | None:
    """Try to lock a folder: True on success, False if another process has the lock, None if locks are not supported."""
    import fcntl  # Windows has no such module

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
