"""Makes temporary folders, each locked by its owner process. If the owner is killed, the next `sweep` deletes the folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from labkit import locked_folder
from labkit.serving.access import withdraw_secret
from labkit.serving.server.server_folder import delete_remains
from labkit.serving.user_folder import user_folder

PREFIX = "labkit-run-"
"""The names of all these folders begin with this text. The system releases the lock on a folder when its owner ends."""


class LockedFolder(locked_folder.LockedFolder):
    """A new temporary folder for this user alone. This process owns the folder and holds the folder's lock.

    The owner deletes the folder with `delete`. If the owner does not delete the folder, a `sweep` deletes it after every
    process that holds the lock has ended.
    lock: a file descriptor, which can be passed to another process.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"{PREFIX}{kind}-", user_folder())


def sweep() -> list[Path]:
    """Delete this user's folders whose owners have ended, and the shared memory of their servers; returns the folders.

    Folders that are still locked are kept, and so are folders on a file system without locks.
    """
    swept = []
    for folder in locked_folder.ended_folders(PREFIX, user_folder()):
        delete_remains(folder)
        withdraw_secret(folder)
        shutil.rmtree(folder, ignore_errors=True)
        swept.append(folder)
    return swept
