"""How a model knows the watchdog's small requests: by a parameter whose value only this user's processes can read.

Probes are answered like any other request, but not counted among the requests, tokens, steps and refusals of labkit's own
metrics. The value is drawn at random for each server and lies in the server's run folder, which is closed to other users: a
client that sends another value is refused, so no client can hide its requests by it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PARAMETER = "labkit_probe"
"""The name of the request's parameter."""


def mark_of(folder: Path) -> str:
    """The mark of the server with this run folder; drawn when there is none yet."""
    path = folder / "probe"
    if not path.exists():
        new = folder / f"probe.{os.getpid()}.{secrets.token_hex(4)}"
        new.touch(mode=0o600)
        new.write_text(secrets.token_hex(16))
        try:
            os.link(new, path)  # whole from the first moment, and never one over another
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return path.read_text()


def is_mark(value: object, folder: Path) -> bool:
    """Whether a value is the mark of the server with this run folder."""
    path = folder / "probe"
    return isinstance(value, str) and path.exists() and secrets.compare_digest(value.encode(), path.read_bytes())
