"""Records in a ledger what each rank computed and exchanged. An entry is one activity, with its step, shape, bytes and time."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import astuple, dataclass

MOST_ENTRIES = 100_000
"""A rank keeps at most this many entries. It drops the oldest entries first."""

COMPUTE = "compute"


@dataclass(frozen=True)
class Entry:
    """One activity of a rank in a step.

    what: "compute", or the name of a collective: "all_reduce", "gather", "broadcast", "send", "recv", ... piece: the number of
    the micro-batch within the step. calls: how many calls the entry stands for. shape, byte_count: the shape and the bytes of
    the tensor that this rank gave or received in each call. began: the time at which the first call began, read from the host's
    monotonic clock. seconds: the time of all calls together, including the time spent waiting for other ranks.

    Collectives inside a forward pass are part of its "compute" entry: `began` and `seconds` of that entry include them.
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
        """The bytes of all calls together."""
        return self.calls * self.byte_count


class Ledger:
    """The latest entries of one rank. Each new entry gets the current values of `step` and `piece`."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.step = self.piece = 0
        self._entries: deque[Entry] = deque(maxlen=MOST_ENTRIES)

    def add(
        self,
        what: str,
        began: float,
        *,
        shape: tuple[int, ...] = (),
        byte_count: int = 0,
        calls: int = 1,
        seconds: float | None = None,
    ) -> None:
        """Add an activity that began at `began` and took `seconds`. If `seconds` is None, the activity ends now."""
        taken = time.monotonic() - began if seconds is None else seconds
        self._entries.append(Entry(self.rank, self.step, self.piece, what, calls, shape, byte_count, began, taken))

    def take(self) -> list[Entry]:
        """Remove and return all entries."""
        entries = list(self._entries)
        self._entries.clear()
        return entries


def encode_entries(entries: Iterable[Entry]) -> bytes:
    """Turn entries into bytes."""
    return json.dumps([astuple(entry) for entry in entries]).encode()


def decode_entries(data: bytes) -> list[Entry]:
    """Turn the bytes from `encode_entries` back into entries."""
    return [
        Entry(rank, step, piece, what, calls, tuple(shape), byte_count, began, seconds)
        for rank, step, piece, what, calls, shape, byte_count, began, seconds in json.loads(data)
    ]
