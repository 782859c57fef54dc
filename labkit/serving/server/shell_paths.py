"""Makes the paths that a server is given: they are absolute, and have no characters that a shell would interpret.

A server runs in a folder of its own, and Triton's Python backend starts models through a shell without quoting paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from labkit.errors import NotAvailable

PATHS = ("LABKIT_HOME", "HF_HOME", "HF_HUB_CACHE", "TMPDIR", "PYTHONPATH")
"""Environment variables that name folders. Models find their weights and their code through these variables."""

_SAFE = re.compile(r"[A-Za-z0-9_./+@%,=:-]+")


def absolute_paths(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `PATHS` that are set, with absolute folders.

    Relative folders would be wrong for models, which run in a different folder from the program that starts them.
    """
    found = {}
    for name in PATHS:
        if given := environment.get(name):
            found[name] = os.pathsep.join(os.path.abspath(os.path.expanduser(part)) for part in given.split(os.pathsep) if part)
    return found


def shell_safe_path(path: Path, folder: Path, name: str) -> Path:
    """A path that Triton can start models from: `path` if a shell needs no quotes for it, else a new link `folder / name`.

    Raises `NotAvailable` if the link's own path has characters that a shell would interpret, such as spaces.
    """
    if is_shell_safe(str(path)):
        return path
    if not is_shell_safe(str(folder)):
        raise NotAvailable(
            f"Triton needs a path without spaces and quotes, unlike {path} and {folder}; set TMPDIR to such a folder"
        )
    link = folder / name
    link.unlink(missing_ok=True)  # an earlier start may have left a link
    link.symlink_to(path)
    return link


def is_shell_safe(name: str) -> bool:
    """Whether a shell reads a text as one word, unchanged."""
    return bool(_SAFE.fullmatch(name))
