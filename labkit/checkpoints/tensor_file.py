"""Reads parts of a file of tensors. No other bytes are read, and the file is not mapped into memory.

The pages of a mapped file would count as memory of this process, like a second copy of the model.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from labkit.errors import CheckpointError

BLOCK_BYTES = 16 * 2**20
"""While a tensor is converted to another dtype or device, at most this many of its bytes are in memory twice."""


@dataclass(frozen=True)
class Entry:
    """The place of a tensor in a file: its dtype, its shape, and the offset of its first byte."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def byte_count(self) -> int:
        """The size of the whole tensor in bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


class TensorFile:
    """A file in which every tensor is contiguous, row after row. Each format is a subclass.

    `entries` are the tensors in floating point of 16, 32 or 64 bits; `integers` are tensors of integers and of 8-bit floating
    point, which only quantized models have.
    """

    def __init__(self, path: Path, entries: dict[str, Entry], integers: dict[str, Entry] | None = None) -> None:
        self.path = path
        self.entries = entries
        self.integers = integers or {}

    def entry(self, name: str) -> Entry:
        """The place of a tensor, whether it is in `entries` or in `integers`."""
        return self.entries[name] if name in self.entries else self.integers[name]

    def load(self, name: str, rows: slice | None = None) -> Tensor:
        """Read a tensor, or some of its rows (a slice without negative ends and without a step), in its stored dtype.

        A tensor without dimensions is returned with shape `[1]`.
        """
        entry = self.entry(name)
        kept = rows or slice(0, entry.shape[0] if entry.shape else 1)
        target = torch.empty(kept.stop - kept.start, *entry.shape[1:], dtype=entry.dtype, device="cpu")
        self.read(name, kept, None, target)
        return target

    def read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        """Copy the given rows (and columns) of a tensor to `target`.

        `target` can have any dtype and be on any device. The slices must not have a step.
        """
        entry = self.entry(name)
        item, row_bytes = entry.dtype.itemsize, entry.dtype.itemsize * math.prod(entry.shape[1:])
        as_stored = target.dtype == entry.dtype and target.device.type == "cpu"
        step = max(1, BLOCK_BYTES // max(1, row_bytes))
        block = torch.empty(0 if as_stored else min(step, len(target)), *target.shape[1:], dtype=entry.dtype, device="cpu")
        with self.path.open("rb") as file:
            for begin in range(0, len(target), step):
                part = target[begin : begin + step]
                source = part if as_stored else block[: len(part)]
                offset = entry.offset + (rows.start + begin) * row_bytes
                if columns is None:
                    self._fill(file.fileno(), name, source, offset)
                else:
                    for index, row in enumerate(source):
                        self._fill(file.fileno(), name, row, offset + index * row_bytes + columns.start * item)
                if not as_stored:
                    part.copy_(source)

    def _fill(self, descriptor: int, name: str, target: Tensor, offset: int) -> None:
        """Fill a contiguous tensor with the bytes of the file that begin at `offset`."""
        view = memoryview(target.view(torch.uint8).numpy().reshape(-1))  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            got = os.preadv(descriptor, [view[done:]], offset + done)
            if got == 0:
                raise CheckpointError(f"{self.path} ended inside {name}: the file was cut while it was read")
            done += got
