"""Lets the worker's process use the notebook's folder: it gets copies of small files, and can import the notebook's own
modules.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from labkit.measure.ladder_file import FILE_END

MOST_FILES, MOST_FILE_BYTES = 200, 2**20
"""At most 200 entries of a notebook's folder are examined, and only files of at most 1 MiB are copied."""


def copy_files(folder: Path | None, files: Path) -> None:
    """Create the folder `files` with copies of the small files of a notebook's folder, so that the learner's code can read and
    change them safely. A file that cannot be read is left out. Raises `OSError` if a copy cannot be written.
    """
    files.mkdir()
    for path in small_files(folder) if folder else []:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        (files / path.name).write_bytes(content)


def small_files(folder: Path) -> Iterator[Path]:
    """The files of a notebook's folder that the learner's code may read, sorted by name.

    Notebooks and speed ladders are left out. Symbolic links are left out, too, because a link can lead to any file of the
    person who runs the check.
    """
    for path in sorted(folder.iterdir())[:MOST_FILES]:
        with contextlib.suppress(OSError):
            is_left_out = path.is_symlink() or path.name.endswith((".ipynb", FILE_END))
            if path.is_file() and not is_left_out and path.stat().st_size <= MOST_FILE_BYTES:
                yield path


def find_modules(folder: Path | None) -> None:
    """Let this process import the modules that a notebook in `folder` can import. This includes modules in relative paths
    that the notebook adds to `sys.path`.
    """
    sys.path[:0] = [os.getcwd(), *([str(folder)] if folder else [])]
    if folder:
        sys.meta_path.append(_FromFolder(folder))


class _FromFolder:
    """Resolves relative entries of `sys.path` (`..`, `src`) from the notebook's folder, because this process runs in another
    folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a top-level module, or None. Modules inside packages are found without this class."""
        places = [str(self._folder / entry) for entry in sys.path if entry and not os.path.isabs(entry)]
        return PathFinder.find_spec(name, places, target) if path is None and places else None
