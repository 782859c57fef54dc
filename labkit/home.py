"""The folder where labkit stores a user's files: progress, records, downloaded models.

This module imports only `errors` from labkit.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.errors import NotAvailable


def home_path() -> Path:
    """Return the folder that the variable `LABKIT_HOME` names, or `~/.labkit` if it is not set.

    The folder may not exist, so use this function only for reading.
    """
    return Path(os.environ.get("LABKIT_HOME") or Path.home() / ".labkit").expanduser()


def home() -> Path:
    """Return the same folder as `home_path`, and create it if it is missing.

    Raises `NotAvailable` if the folder cannot be created or written to.
    """
    path = home_path()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAvailable(
            f"labkit keeps its files in {path}, which cannot be created ({error}); set LABKIT_HOME to another folder"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise NotAvailable(
            f"labkit keeps its files in {path}, which this user cannot write to; set LABKIT_HOME to another folder"
        )
    return path


@contextmanager
def fresh_home() -> Iterator[Path]:
    """A temporary, empty home for this process and the processes that it starts. The user's files are not read or changed."""
    before = os.environ.get("LABKIT_HOME")
    with tempfile.TemporaryDirectory(prefix="labkit-home-") as folder:
        os.environ["LABKIT_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("LABKIT_HOME")
            if before is not None:
                os.environ["LABKIT_HOME"] = before


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write bytes or text (as UTF-8) to a file.

    A program that reads the file gets either the whole old content or the whole new content, even after a crash.

    An existing file keeps its permissions. A new file can be read by everybody, and written by its owner.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let only one process or thread at a time run the block, for each `path`.

    A program that reads a file, changes the content and writes it back must do all three inside the block: otherwise, if two
    programs do so at once, one change is lost. The lock is on a file beside `path` with the suffix `.lock`. The file stays; the
    lock ends with the block, or with the process. A block must not lock the same path again. Where the system has no such lock
    (Windows and some network disks), the block runs without it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_aside(path: Path) -> Path:
    """Rename a damaged file and return its new path.

    For example, `progress.json` becomes `progress.damaged`, or `progress-2.damaged` if that name is taken. A new file can then
    be written under the old name, and no file that was set aside is lost. Raises `FileNotFoundError` if another process has
    just renamed the file.
    """
    kept = make_new(path.with_suffix(".damaged"), lambda free: free.touch(exist_ok=False))
    try:
        os.replace(path, kept)
    except FileNotFoundError:
        kept.unlink()
        raise
    return kept


def make_new(path: Path, make: Callable[[Path], object]) -> Path:
    """Make a file or a folder that does not exist yet, and return its path.

    `make` is called with the path, and raises `FileExistsError` if the name is taken. In that case `make` is called again with
    `-2`, `-3` and so on added to the name. So nothing is overwritten, even if two processes make the same file at once.
    """
    number, free = 1, path
    while True:
        try:
            make(free)
        except FileExistsError:
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        else:
            return free
