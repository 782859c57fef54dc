"""One folder for each user, closed to all other users. The folder holds sockets, secrets and process ids."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from labkit.errors import NotAvailable

PLACE = "/tmp"


def user_folder() -> Path:
    """Return this user's folder, with mode 700; create it if it is missing. All processes of the user get the same folder.

    The folder is in `PLACE` even if TMPDIR is set, because a server and its clients must look in the same place, and because
    the path of a socket can have at most 107 bytes. If `PLACE` cannot be used, the folder is in the temporary folder. Raises
    `NotAvailable` if neither place can be used.
    """
    faults = []
    for parent in dict.fromkeys((PLACE, tempfile.gettempdir())):
        folder = Path(parent) / f"labkit-serving-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError as error:
            faults.append(str(error))
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
        faults.append(f"{folder} belongs to somebody else or is open to others; delete it")
    raise NotAvailable(f"there is no private folder for a server: {'; '.join(faults)}; or set TMPDIR to a folder of your own")


def write_private(path: Path, text: str) -> None:
    """Write a file with mode 600, and replace an existing file. Readers see the whole old file or the whole new file."""
    handle, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)  # mkstemp creates the file with mode 600
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(part, path)
