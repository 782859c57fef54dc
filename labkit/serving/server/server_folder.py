"""The files in a server's own folder, and what has to be deleted elsewhere after the server has ended."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import psutil

from labkit.serving.access import SECRET_FILE, secret_of
from labkit.serving.probe_mark import mark_of
from labkit.serving.shared_folder import shared_folder_path
from labkit.serving.user_folder import user_folder

REGIONS, PID = "regions", "pid"
"""The names of two files in a server's own folder. The first file holds the prefix of the names of the server's shared memory,
and the second file holds its process id.
"""


def read_server_pid(folder: Path) -> int:
    """The process id of the server that owns this folder.

    Raises `OSError` or `ValueError` before the process id has been written.
    """
    return int((folder / PID).read_text())


def mark_at(address: str) -> str:
    """The probe mark (see `probe_mark`) of this user's server at HOST:PORT of this machine; empty if no such server is known.

    The server's folder is found by the secret, so the server can belong to another process.
    """
    secret = secret_of(address)
    for file in user_folder().glob(f"*/{SECRET_FILE}"):
        with contextlib.suppress(OSError, ValueError):  # a server that begins or ends at this moment
            if file.read_text() == secret and (shared := shared_folder_path(read_server_pid(file.parent))).is_dir():
                return mark_of(shared)
    return ""


def delete_remains(folder: Path) -> None:
    """Delete what the ended server of this folder has left elsewhere: its shared memory and its shared folder.

    Also ends processes of its models that are still running.
    """
    with contextlib.suppress(OSError):
        if regions := (folder / REGIONS).read_text():
            _kill_orphans(regions)
            for region in Path("/dev/shm").glob(f"{regions}*"):
                region.unlink(missing_ok=True)
    with contextlib.suppress(OSError, ValueError):
        pid = read_server_pid(folder)
        if not psutil.pid_exists(pid):
            shutil.rmtree(shared_folder_path(pid), ignore_errors=True)


def _kill_orphans(regions: str) -> None:
    """Kill processes that have the name of a region, which begins with `regions`, among their arguments.

    The guardian is not killed: only the prefix `regions` is among its arguments, and this prefix is shorter than any region's
    name.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(part.startswith(regions) and part != regions for part in process.cmdline()):
                process.kill()
