"""One folder of this user for small things that other users must not see: sockets, secrets, process ids."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from labkit.errors import NotAvailable

PLACE = "/tmp"


def private_folder() -> Path:
    """The folder, mode 700, made when it is missing; the same for all of this user's processes.

    It lies in `PLACE`, whatever TMPDIR says: the path of a socket has 107 bytes at most, and a server and its clients must look
    in one place. Where that cannot be used, it lies in the temporary folder. Raises `NotAvailable` when both cannot be used.
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
    """Write a file of mode 600, over one of that name; it is never there in part or readable by others."""
    handle, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)  # mode 600
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(part, path)
