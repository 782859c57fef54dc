"""Reads PyTorch's own format, `pytorch_model.bin`: a zip archive of a pickle and the uncompressed bytes of each storage."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints.tensor_file import Entry, TensorFile
from labkit.errors import CheckpointError

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}


class PytorchFile(TensorFile):
    """The tensors of one PyTorch file.

    Unpickling finds where the values are in the file, but does not read them. Only the classes and functions that a
    dictionary of tensors needs are allowed in the pickle, so it cannot run code. `entries` has only the floating-point tensors;
    `names` are the names of all tensors. Raises a `CheckpointError` that names the file and, if one tensor is wrong, the
    tensor.
    """

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                index = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(index) as file:
                    tensors = _Unpickler(file).load()
                places = {str(name): place for name, place in tensors.items() if isinstance(place, _Place)}
                entries = {
                    name: _entry(archive, f"{index.removesuffix('.pkl')}/{place.key}", name, place)
                    for name, place in places.items()
                    if place.storage in STORAGES
                }
        except Exception as error:  # a broken pickle can raise anything
            reason = (str(error).splitlines() or [""])[0] or repr(error)
            raise CheckpointError(
                f"cannot read {path}; it must hold only tensors, in the format that torch writes since version 1.6: {reason}"
            ) from error
        super().__init__(path, entries)
        self.names = set(places)


@dataclass(frozen=True)
class _Place:
    """A tensor as the pickle describes it: the kind and name of its storage, and its part of the storage."""

    storage: str
    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _place(storage: tuple[str, str], offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Place:
    return _Place(*storage, offset, shape, stride)


def _parameter(place: _Place, *_: Any) -> _Place:
    return place


class _Unpickler(pickle.Unpickler):
    """Loads the dictionary of tensors in the pickle, with a `_Place` instead of each tensor."""

    ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {  # noqa: RUF012 (never changed)
        ("torch._utils", "_rebuild_tensor_v2"): _place,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return name
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it uses {module}.{name}, which a file of weights does not need")
        return self.ALLOWED[module, name]

    def persistent_load(self, pid: tuple[str, str, str, str, int]) -> tuple[str, str]:
        return pid[1], pid[2]


def _entry(archive: zipfile.ZipFile, record: str, name: str, place: _Place) -> Entry:
    """The place of a tensor in the file; raises a `ValueError` that names the tensor if the tensor is not complete."""
    numbers = (place.offset, *place.shape, *place.stride)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{name} has an impossible shape {place.shape}, stride {place.stride} or offset {place.offset}")
    info = archive.getinfo(record)
    dtype = STORAGES[place.storage]
    entry = Entry(dtype, tuple(place.shape), _start(archive, info) + place.offset * dtype.itemsize)
    if not _in_one_piece(place):
        raise ValueError(f"{name} is not contiguous; save it with .contiguous()")
    if info.compress_type != zipfile.ZIP_STORED or place.offset * dtype.itemsize + entry.byte_count > info.file_size:
        raise ValueError(f"{name} of shape {entry.shape} does not fit in its record of {info.file_size} bytes")
    return entry


def _start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """The file offset of a record's first byte, which follows its local header of 30 bytes, its name and its padding."""
    assert archive.fp is not None
    archive.fp.seek(info.header_offset)
    header = archive.fp.read(30)
    return info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _in_one_piece(place: _Place) -> bool:
    step = 1
    for length, stride in zip(reversed(place.shape), reversed(place.stride), strict=True):
        if length != 1 and stride != step:
            return False
        step *= length
    return True
