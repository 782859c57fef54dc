"""Reads the safetensors format: the length of the header (8 bytes, little-endian), a JSON header, then the data.

The header is `{name: {dtype, shape, data_offsets}}`; the offsets count from the end of the header.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints.tensor_file import Entry, TensorFile
from labkit.errors import CheckpointError
from labkit.json_file import MOST_INDEX_BYTES, parse_json_object

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = {
    **{"I8": torch.int8, "U8": torch.uint8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}
"""Integer and 8-bit floating-point dtypes, which quantized models use for weights and stored shapes."""
OTHER_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "C64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
"""The number of bits of each dtype that is not floating point of 16, 32 or 64 bits."""


class SafetensorsFile(TensorFile):
    """One safetensors file; opening reads its header and compares it with the size of the file.

    `names` are the names of all tensors; only floating-point and integer tensors can be read. If something is wrong,
    raises a `CheckpointError` that names the file and the first tensor that is wrong.
    """

    def __init__(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(MOST_INDEX_BYTES, size - 8):
                    raise ValueError(f"the header should have {length} bytes, but the file has {size}")
                header = parse_json_object(file.read(length))
            header.pop("__metadata__", None)
            spans = {name: _span(name, row) for name, row in header.items()}
            found = [
                {
                    name: _entry(header[name], kinds, 8 + length + spans[name][0])
                    for name in header
                    if _is_of(header[name], kinds)
                }
                for kinds in (DTYPES, INTEGERS)
            ]
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        except (ValueError, OverflowError) as error:
            raise CheckpointError(f"{path} is not a safetensors file, or is cut off: {error}") from error
        ordered = sorted(spans.items(), key=lambda item: item[1])
        for name, (_, last) in ordered:
            if (end := 8 + length + last) > size:
                raise CheckpointError(f"{path} is cut off: {name} ends at byte {end}, but the file ends at byte {size}")
        for (one, (_, end)), (other, (begin, last)) in pairwise(ordered):
            if begin < end and begin < last:
                raise CheckpointError(f"{path} is not a safetensors file: {one} and {other} overlap")
        super().__init__(path, *found)
        self.names = set(header)


def _is_of(row: dict[str, Any], kinds: dict[str, torch.dtype]) -> bool:
    return row["dtype"] in kinds


def _entry(row: dict[str, Any], kinds: dict[str, torch.dtype], offset: int) -> Entry:
    return Entry(kinds[row["dtype"]], tuple(row["shape"]), offset)


def _span(name: str, row: Any) -> tuple[int, int]:
    """The offsets of a tensor's first byte and of its end, both counted from the end of the header.

    Raises `ValueError` if `row` is wrong.
    """
    if not isinstance(row, dict) or not {"dtype", "shape", "data_offsets"} <= row.keys():
        raise ValueError(f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES.keys() | OTHER_BITS.keys():
        raise ValueError(f"{name} has the dtype {dtype!r:.80}; {', '.join([*DTYPES, *OTHER_BITS])} are accepted")
    if not _are_whole(shape):
        raise ValueError(f"{name} has the shape {shape!r:.80}; a list of whole numbers is accepted")
    if not _are_whole(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has the data_offsets {offsets!r:.80}; two whole numbers are accepted")
    begin, end = offsets
    bits = 8 * DTYPES[dtype].itemsize if dtype in DTYPES else OTHER_BITS[dtype]
    needed = -(-math.prod(shape) * bits // 8)
    if end - begin != needed:
        raise ValueError(f"{name} of shape {tuple(shape)} needs {needed} bytes, but has {end - begin}")
    return begin, end


def _are_whole(values: Any) -> bool:
    """Whether `values` is a list of whole numbers that are at least 0 and not too large for a file."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
