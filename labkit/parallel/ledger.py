"""What the ranks did and what passed between them, entry by entry: which step, which collective, what shape, bytes, time."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import astuple, dataclass

MOST_ENTRIES = 100_000
"""A rank keeps the latest so many."""

COMPUTE = "compute"


@dataclass(frozen=True)
class Entry:
    """One thing that a rank did in a step.

    `what` is "compute", or the collective: "all_reduce", "gather", "broadcast", "send", "recv", ... `piece` numbers the
    micro-batches of a step. `calls` of it with tensors of `shape` and `byte_count` bytes each, as this rank gave or got them,
    began at `began` (the host's monotonic clock) and took `seconds` in all, with the waiting for others in them. The
    collectives within a pass are no stretch of their own: they lie in its "compute", which has `began` and `seconds` around
    them.
    """

    rank: int
    step: int
    piece: int
    what: str
    calls: int
    shape: tuple[int, ...]
    byte_count: int
    began: float
    seconds: float

    @property
    def total_bytes(self) -> int:
        """Bytes of all calls."""
        return self.calls * self.byte_count


class Ledger:
    """A rank's entries, the latest ones."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.step = self.piece = 0
        self._entries: deque[Entry] = deque(maxlen=MOST_ENTRIES)

    def note(
        self,
        what: str,
        began: float,
        *,
        shape: tuple[int, ...] = (),
        byte_count: int = 0,
        calls: int = 1,
        seconds: float | None = None,
    ) -> None:
        """Enter something that began then and, unless `seconds` says how long it took, has ended now."""
        taken = time.monotonic() - began if seconds is None else seconds
        self._entries.append(Entry(self.rank, self.step, self.piece, what, calls, shape, byte_count, began, taken))

    def take(self) -> list[Entry]:
        """All entries since the last time."""
        entries = list(self._entries)
        self._entries.clear()
        return entries


def encode_entries(entries: Iterable[Entry]) -> bytes:
    """Entries as bytes."""
    return json.dumps([astuple(entry) for entry in entries]).encode()


def decode_entries(data: bytes) -> list[Entry]:
    """The entries again."""
    return [
        Entry(rank, step, piece, what, calls, tuple(shape), byte_count, began, seconds)
        for rank, step, piece, what, calls, shape, byte_count, began, seconds in json.loads(data)
    ]
