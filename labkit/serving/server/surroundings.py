"""What a server is given of the surroundings that it is started in, so that it works in a folder of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from labkit.errors import NotAvailable

PATHS = ("LABKIT_HOME", "HF_HOME", "HF_HUB_CACHE", "TMPDIR", "PYTHONPATH")
"""Environment variables that name folders, by which a model finds its weights and its code."""

_PLAIN = re.compile(r"[A-Za-z0-9_./+@%,=:-]+")


def absolute_paths(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of `PATHS` that are set, with each folder absolute: a model does not run where the server was started."""
    found = {}
    for name in PATHS:
        if given := environment.get(name):
            found[name] = os.pathsep.join(os.path.abspath(os.path.expanduser(part)) for part in given.split(os.pathsep) if part)
    return found


def plain_path(path: Path, folder: Path, name: str) -> Path:
    """A path by which Triton can start models: itself, or a link `name` in `folder` where it has spaces or the like.

    Triton's Python backend starts a model through a shell, and puts no quotes around paths there. Raises `NotAvailable` where
    the folder's own path has spaces or the like.
    """
    if is_plain(str(path)):
        return path
    if not is_plain(str(folder)):
        raise NotAvailable(
            f"Triton cannot use the paths {path} and {folder}: it needs one without spaces and quotes; set TMPDIR"
        )
    link = folder / name
    link.unlink(missing_ok=True)  # of an earlier start
    link.symlink_to(path)
    return link


def is_plain(name: str) -> bool:
    """Whether a shell takes a name as it is."""
    return bool(_PLAIN.fullmatch(name))
