"""How a model recognises the watchdog's probes: by a request parameter whose value only this user can read.

Probes are answered like any other request, but labkit's own metrics do not count them as requests, tokens, steps or
refusals. The value, called the mark, is random and different for each server. The mark is in the server's shared folder, which
other users cannot read. A request with a wrong value is refused, so clients cannot use the parameter to hide requests.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PARAMETER = "labkit_probe"
"""The name of the request parameter."""


def mark_of(folder: Path) -> str:
    """The mark of the server with this shared folder; if there is no mark yet, a random one is made."""
    path = folder / "probe"
    if not path.exists():
        new = folder / f"probe.{os.getpid()}.{secrets.token_hex(4)}"
        new.touch(mode=0o600)
        new.write_text(secrets.token_hex(16))
        try:
            os.link(new, path)  # readers never see a part of the file, and an existing mark is never replaced
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return path.read_text()


def is_mark(value: object, folder: Path) -> bool:
    """Whether a value is the mark of the server with this shared folder."""
    path = folder / "probe"
    return isinstance(value, str) and path.exists() and secrets.compare_digest(value.encode(), path.read_bytes())
