"""Where labkit keeps what belongs to its user: progress, records, downloaded models. Imports nothing of labkit."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def home() -> Path:
    """The folder named by `LABKIT_HOME`, else `~/.labkit`; made when it is missing."""
    path = Path(os.environ.get("LABKIT_HOME") or Path.home() / ".labkit").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


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
