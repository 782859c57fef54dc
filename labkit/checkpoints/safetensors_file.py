"""The safetensors format: an 8-byte little-endian length, a JSON header, then the data.

The header is `{name: {dtype, shape, data_offsets}}`, with offsets that count from its end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints.tensor_file import Entry, TensorFile
from labkit.errors import CheckpointError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_HEADER_LIMIT = 100_000_000


class SafetensorsFile(TensorFile):
    """One safetensors file; its header is read and checked against the file's size at once.

    `names` are those of all its tensors; the ones that are not floating point have no entry. Raises `CheckpointError`
    naming the file, and the first tensor that is cut off, when something does not fit.
    """

    def __init__(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                    raise ValueError(f"a header of {length} bytes in a file of {size}")
                header: dict[str, dict[str, Any]] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {name: _entry(name, row, 8 + length) for name, row in header.items() if row["dtype"] in DTYPES}
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is no safetensors file, or is cut off: {error}") from error
        for name, entry in entries.items():
            end = entry.offset + entry.byte_count
            if end > size:
                raise CheckpointError(f"{path} is cut off: {name} ends at byte {end}, the file at {size}")
        super().__init__(path, entries)
        self.names = set(header)


def _entry(name: str, row: dict[str, Any], data: int) -> Entry:
    """One line of the header whose data begin at byte `data`; raises `ValueError` when its numbers do not agree."""
    begin, end = (int(offset) for offset in row["data_offsets"])
    entry = Entry(DTYPES[row["dtype"]], tuple(int(length) for length in row["shape"]), data + begin)
    if begin < 0 or min(entry.shape, default=0) < 0:
        raise ValueError(f"{name} has the shape {entry.shape} and begins at {begin}")
    if end - begin != entry.byte_count:
        raise ValueError(f"{name} of shape {entry.shape} needs {entry.byte_count} bytes, has {end - begin}")
    return entry
