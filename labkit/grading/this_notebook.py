"""Finds the file of the notebook whose kernel runs this code."""

from __future__ import annotations

import os
from pathlib import Path

from labkit.errors import InvalidRequest


def this_notebook(given: str | Path | None, example: str) -> Path:
    """The absolute path of the notebook's file: `given`, else the path that Jupyter passed to the kernel when it started.

    `example` is a call with a path, for the message of the error. Raises `InvalidRequest` if the path is not known, or if there
    is no such file.
    """
    named = given or os.environ.get("JPY_SESSION_NAME")
    if not named:
        raise InvalidRequest(f"the file of this notebook is not known here; give its path, for example {example}")
    path = Path(named).resolve()
    if not path.is_file():
        why = "there is no such file" if given else "the notebook was renamed or moved after its kernel had started"
        raise InvalidRequest(f"{path} cannot be read: {why}; give the path of the notebook, for example {example}")
    return path
