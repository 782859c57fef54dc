"""Writes a safetensors file from tensors in memory. The file appears only when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from labkit.checkpoints.output import write_tensor
from labkit.checkpoints.safetensors_file import DTYPES, INTEGERS

_NAMES = {dtype: name for name, dtype in (DTYPES | INTEGERS).items()}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """Write CPU tensors to a temporary file beside `path`, and rename it to `path`. Returns the size in bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            write_tensor(file, tensor)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return 8 + len(text) + offset
