"""Reads the settings in a file that `torch.save` wrote, and finds the tensors in it, without running code from the file.

Dictionaries in the file can be nested in any way. `torch.load(weights_only=True)` reads the file and refuses everything that is
not data. No values of tensors are read: PyTorch's fake tensors record where each storage is in the file
(https://docs.pytorch.org/docs/stable/notes/serialization.html). Other objects that training frameworks save with the weights
(random states, enumerations) are replaced by empty stand-ins.
"""

from __future__ import annotations

import argparse
import io
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from labkit.checkpoints.tensor_file import Entry, TensorFile
from labkit.errors import CheckpointError


class _StandIn:
    """Replaces an object that is neither a tensor nor a setting; stores nothing and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_ENUMS = ("ModelType", "AttnType", "AttnMaskType", "LayerType", "PositionEmbeddingType", "AttnBackend", "Fp8Recipe")
_ENUM_HOMES = ("megatron.model.enums", "megatron.core.enums", "megatron.legacy.model.enums", "megatron.core.transformer.enums")
_NUMPY = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
_PASSED: list[Any] = [
    argparse.Namespace,
    *((_StandIn, name) for name in (*_NUMPY, "_io.BytesIO")),
    *((_StandIn, f"{home}.{name}") for home in _ENUM_HOMES for name in _ENUMS),
]


class TorchArchive(TensorFile):
    """A PyTorch file, or a part of a file: the `length` bytes that begin at byte `start`. `label` is the name used in messages.

    `content` is the object in the file; its tensors have no values. `entries` are the floating-point tensors; their names are
    the keys of the nested dictionaries, joined by dots. Raises `CheckpointError` for a file that is incomplete, was written by
    an old torch, or contains code; such code is never run.
    """

    def __init__(self, path: Path, start: int = 0, length: int | None = None, label: str = "") -> None:
        self.label = label or str(path)
        length = path.stat().st_size - start if length is None else length
        with path.open("rb") as file:
            window = io.BufferedReader(_Window(file, start, length))
            records = _records(window, self.label)
            window.seek(0)
            self.content = _load(window, self.label)
        tensors = _flat(self.content)
        entries = {name: _entry(name, tensor, records, start, self.label) for name, tensor in tensors.items()}
        super().__init__(path, {name: entry for name, entry in entries.items() if entry is not None})


class _Window(io.RawIOBase):
    """A part of an open file that can be read like a file of its own."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self.file, self.start, self.length, self.position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = max(0, offset + (0, self.position, self.length)[whence])
        return self.position

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.start + self.position)
        got = self.file.read(max(0, min(len(buffer), self.length - self.position)))
        buffer[: len(got)] = got
        self.position += len(got)
        return len(got)


def _records(window: IO[bytes], label: str) -> dict[int, int]:
    """The size of each record in bytes (0 if it is compressed). The keys are the positions of the records' first bytes."""
    try:
        with zipfile.ZipFile(window) as archive:
            infos = archive.infolist()
        starts = {}
        for info in infos:
            window.seek(info.header_offset)
            header = window.read(30)  # the name and padding follow; the header holds their lengths
            begin = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            starts[begin] = info.file_size if info.compress_type == zipfile.ZIP_STORED else 0
        return starts
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(
            f"{label} is cut off, or is not in the format that torch.save writes since torch 1.6 ({error}); if it is older, "
            "load it with a newer torch and save it again"
        ) from error


def _load(window: IO[bytes], label: str) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with torch.serialization.safe_globals(_PASSED), FakeTensorMode():
            return torch.load(window, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise anything
        text = str(error)
        called = re.search(r"GLOBAL `?([\w.]*\w)", text)
        if called or "weights_only" in text or "Unsupported" in text:
            what = f"uses {called[1]}" if called else "does not consist of data alone"
            raise CheckpointError(
                f"{label} {what}, which weights do not need and which could run code; no code was run, and labkit "
                "does not load such files: save a plain dictionary of tensors and settings instead"
            ) from error
        raise CheckpointError(f"cannot read {label} as a PyTorch file: {(text.splitlines() or [repr(error)])[0]}") from error


def _flat(content: Any, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(content, Tensor):
        return {prefix: content}
    if not isinstance(content, dict):
        return {}
    found: dict[str, Tensor] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _entry(name: str, tensor: Tensor, records: dict[int, int], start: int, label: str) -> Entry | None:
    """The place of a tensor in the file; None if the tensor is not floating point."""
    if not tensor.dtype.is_floating_point:
        return None
    offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if offset is None or not tensor.is_contiguous():
        raise CheckpointError(f"{label}: {name} is not contiguous; save it with .contiguous()")
    inside = tensor.storage_offset() * tensor.dtype.itemsize
    entry = Entry(tensor.dtype, tuple(tensor.shape), start + offset + inside)
    if inside + entry.byte_count > records.get(offset, 0):
        raise CheckpointError(
            f"{label}: {name} of shape {entry.shape} does not fit in its record of {records.get(offset, 0)} bytes"
        )
    return entry
