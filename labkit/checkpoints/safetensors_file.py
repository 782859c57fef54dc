"""Reading parts of a safetensors file with plain reads: no mapped pages, no bytes but those asked for.

The format: an 8-byte little-endian length, a JSON header of `{name: {dtype, shape, data_offsets}}`, then the data.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labkit.errors import CheckpointError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_HEADER_LIMIT = 100_000_000


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its dtype, its shape, and the file offset of its first byte."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class SafetensorsFile:
    """One safetensors file; its header is read and checked against the file's size at once.

    Raises `CheckpointError` naming the file, and the first tensor that is cut off, when something does not fit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                    raise ValueError(f"a header of {length} bytes in a file of {size}")
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            spans = {name: tuple(row["data_offsets"]) for name, row in header.items()}
            self.entries = {
                name: Entry(DTYPES[row["dtype"]], tuple(row["shape"]), 8 + length + spans[name][0])
                for name, row in header.items()
                if row["dtype"] in DTYPES
            }
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is no safetensors file, or is cut off: {error}") from error
        for name, entry in self.entries.items():
            begin, end = spans[name]
            needed = entry.dtype.itemsize * int(np.prod(entry.shape))
            if end - begin != needed:
                raise CheckpointError(f"{path}: {name} of shape {entry.shape} needs {needed} bytes, has {end - begin}")
            if 8 + length + end > size:
                raise CheckpointError(f"{path} is cut off: {name} ends at byte {8 + length + end}, the file at {size}")

    def read(self, name: str, rows: slice, columns: slice | None) -> Tensor:
        """Rows, and columns if given, of a tensor as stored: `[rows, ...]` on the CPU."""
        entry = self.entries[name]
        row_bytes = entry.dtype.itemsize * int(np.prod(entry.shape[1:]))
        with self.path.open("rb") as file:
            if columns is None:
                count = len(range(*rows.indices(entry.shape[0])))
                tensor = torch.empty((count, *entry.shape[1:]), dtype=entry.dtype)
                self._fill(file.fileno(), name, tensor, entry.offset + rows.start * row_bytes)
                return tensor
            tensor = torch.empty((rows.stop - rows.start, columns.stop - columns.start), dtype=entry.dtype)
            for line, row in enumerate(range(rows.start, rows.stop)):
                begin = entry.offset + row * row_bytes + columns.start * entry.dtype.itemsize
                self._fill(file.fileno(), name, tensor[line], begin)
            return tensor

    def _fill(self, descriptor: int, name: str, target: Tensor, offset: int) -> None:
        """Read the bytes of a contiguous tensor from `offset`."""
        view = memoryview(target.view(torch.uint8).numpy().reshape(-1))  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            got = os.preadv(descriptor, [view[done:]], offset + done)
            if got == 0:
                raise CheckpointError(f"{self.path} ended inside {name}: the file was cut while it was read")
            done += got
