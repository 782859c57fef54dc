"""Where labkit keeps what belongs to its user: progress, records, downloaded models. Imports nothing but the errors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.errors import NotAvailable


def home_path() -> Path:
    """The folder named by `LABKIT_HOME`, else `~/.labkit`, whether it is there or not: for what is only read."""
    return Path(os.environ.get("LABKIT_HOME") or Path.home() / ".labkit").expanduser()


def home() -> Path:
    """The folder of `home_path`, made when it is missing.

    Raises `NotAvailable` when it cannot be made or written to.
    """
    path = home_path()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAvailable(f"labkit keeps its files in {path}, which cannot be made ({error}); set LABKIT_HOME") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise NotAvailable(f"labkit keeps its files in {path}, which this user cannot write to; set LABKIT_HOME elsewhere")
    return path


@contextmanager
def fresh_home() -> Iterator[Path]:
    """An empty home for this process and those it starts, gone at the end: nothing of the user's is seen or changed."""
    before = os.environ.get("LABKIT_HOME")
    with tempfile.TemporaryDirectory(prefix="labkit-home-") as folder:
        os.environ["LABKIT_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("LABKIT_HOME")
            if before is not None:
                os.environ["LABKIT_HOME"] = before


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
