"""Lets a function that runs on a rank enter its own work in the ledger, so that a timeline shows it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from labkit.parallel.ledger import COMPUTE, Ledger

_current: Ledger | None = None


@contextlib.contextmanager
def noting(ledger: Ledger) -> Iterator[None]:
    """Enter what runs under `compute` in this block into a ledger."""
    global _current
    before, _current = _current, ledger
    try:
        yield
    finally:
        _current = before


@contextlib.contextmanager
def compute(piece: int = 0) -> Iterator[None]:
    """Enter the block as "compute" of a micro-batch; outside of a rank nothing is entered."""
    began = time.monotonic()
    yield
    if _current is not None:
        _current.piece = piece
        _current.note(COMPUTE, began)
