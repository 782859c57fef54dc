"""A directory in Hugging Face's layout: `config.json` and safetensors (one file or shards) or `pytorch_model.bin`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.pytorch_file import PytorchFile
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.tensor_file import TensorFile
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError, NotAvailable
from labkit.tokenizer import Tokenizer

SAFETENSORS_INDEX = "model.safetensors.index.json"
CHECKSUMS = "SHA256SUMS"


class DirectoryCheckpoint(Checkpoint):
    """Weights of a local directory; opening checks that every tensor is there in its shape, reading checks values.

    A file `SHA256SUMS` beside the weights (the form `sha256sum` writes) is verified first when there is one.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or str(path)
        self.config = GPTJConfig.from_file(path / "config.json")
        verify_checksums(path)
        self._tensors = _open_tensors(path)
        self._check_tensors()
        self.weight_dtype = self._stored_dtype("transformer.wte.weight")

    def _check_tensors(self) -> None:
        for name, shape in expected_shapes(self.config).items():
            if name not in self._tensors:
                raise CheckpointError(
                    f"{self.path} lacks the weight {name} (shape {shape}, floating point); the checkpoint is incomplete"
                )
            found = self._tensors[name].entries[name].shape
            if found != shape:
                raise CheckpointError(f"{self.path}: {name} has shape {found}, but config.json calls for {shape}")

    def _stored_dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].entries[name].dtype

    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        self._tensors[name].read(name, rows, columns, target)

    def tokenizer(self) -> Tokenizer:
        """The directory's `tokenizer.json`."""
        assert self.path is not None
        file = self.path / "tokenizer.json"
        if not file.exists():
            raise NotAvailable(f"{self.path} has no tokenizer.json; give prompts as token ids, or copy the file there")
        return Tokenizer(file)


def _open_tensors(path: Path) -> dict[str, TensorFile]:
    """Each tensor's file."""
    if (path / SAFETENSORS_INDEX).exists():
        return _open_shards(path)
    if (path / "model.safetensors").exists():
        return _in_one_file(SafetensorsFile(path / "model.safetensors"))
    if (path / "pytorch_model.bin").exists():
        return _in_one_file(PytorchFile(path / "pytorch_model.bin"))
    raise CheckpointError(f"{path} holds no weights: model.safetensors, {SAFETENSORS_INDEX} or pytorch_model.bin is looked for")


def _in_one_file(file: TensorFile) -> dict[str, TensorFile]:
    return dict.fromkeys(file.entries, file)


def _open_shards(path: Path) -> dict[str, TensorFile]:
    index = path / SAFETENSORS_INDEX
    try:
        weight_map: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        names = {tensor: Path(file).name for tensor, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no safetensors index: {error!r}") from error
    files: dict[str, SafetensorsFile] = {}
    for tensor, file in names.items():
        if not (path / file).exists():
            raise CheckpointError(f"{path} lacks {file}, where {index.name} says that {tensor} is")
        if file not in files:
            files[file] = SafetensorsFile(path / file)
        if tensor not in files[file].names:
            raise CheckpointError(f"{path / file} lacks {tensor}, which {index.name} says it holds")
    return {tensor: files[file] for tensor, file in names.items() if tensor in files[file].entries}


def verify_checksums(path: Path) -> None:
    """Compare the files that `SHA256SUMS` lists with it; nothing to do when there is no such file.

    Raises `CheckpointError` naming the first file that differs or is missing.
    """
    sums = path / CHECKSUMS
    if not sums.exists():
        return
    for line in sums.read_text("utf-8", "replace").splitlines():
        if not line.strip():
            continue
        expected, _, name = line.strip().partition(" ")
        file = path / Path(name.strip().removeprefix("*")).name  # a star marks binary mode
        if len(expected) != 64 or file == path:
            raise CheckpointError(f"{sums} has a line {line!r}; the form that sha256sum writes is accepted")
        if not file.is_file():
            raise CheckpointError(f"{path} lacks {file.name}, which {CHECKSUMS} lists")
        found = sha256_of(file)
        if found != expected.lower():
            raise CheckpointError(f"{file} has sha256 {found}, but {CHECKSUMS} says {expected}; fetch it again")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
