"""Lets a function that runs on a rank add its own work to the ledger, so that a timeline can show it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from labkit.launch.ledger import COMPUTE, Ledger

_current: Ledger | None = None


@contextlib.contextmanager
def recording_to(ledger: Ledger) -> Iterator[None]:
    """Let `compute` add its entries to this ledger while the `with` block runs."""
    global _current
    before, _current = _current, ledger
    try:
        yield
    finally:
        _current = before


@contextlib.contextmanager
def compute(piece: int = 0) -> Iterator[None]:
    """Add the time of the block to the ledger as a "compute" entry of micro-batch `piece`.

    Nothing is added in a process that is not a rank.
    """
    began = time.monotonic()
    yield
    if _current is not None:
        _current.piece = piece
        _current.add(COMPUTE, began)
