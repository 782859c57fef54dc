"""A directory in Hugging Face's layout: `config.json` and safetensors (one file or shards) or `pytorch_model.bin`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.tokenizer import Tokenizer
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError, NotAvailable

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
        self.weight_dtype = self._dtype_of("transformer.wte.weight")

    def _check_tensors(self) -> None:
        for name, shape in expected_shapes(self.config).items():
            if name not in self._tensors:
                raise CheckpointError(f"{self.path} lacks the weight {name} (shape {shape}); the checkpoint is incomplete")
            found = self._shape_of(name)
            if found != shape:
                raise CheckpointError(f"{self.path}: {name} has shape {found}, but config.json calls for {shape}")

    def _shape_of(self, name: str) -> tuple[int, ...]:
        home = self._tensors[name]
        return home.entries[name].shape if isinstance(home, SafetensorsFile) else tuple(home.shape)

    def _dtype_of(self, name: str) -> torch.dtype:
        home = self._tensors[name]
        return home.entries[name].dtype if isinstance(home, SafetensorsFile) else home.dtype

    def _read(self, name: str, shape: tuple[int, ...], rows: slice, columns: slice | None, device: torch.device) -> Tensor:
        home = self._tensors[name]
        if isinstance(home, SafetensorsFile):
            return home.read(name, rows, columns)
        part = home[rows]
        return part if columns is None else part[:, columns]

    def tokenizer(self) -> Tokenizer:
        """The directory's `tokenizer.json`."""
        assert self.path is not None
        file = self.path / "tokenizer.json"
        if not file.exists():
            raise NotAvailable(f"{self.path} has no tokenizer.json; give prompts as token ids, or copy the file there")
        return Tokenizer(file)


def _open_tensors(path: Path) -> dict[str, SafetensorsFile | Tensor]:
    """Each tensor's file, or the (mapped) tensor itself when the weights are a `pytorch_model.bin`."""
    if (path / SAFETENSORS_INDEX).exists():
        return _open_shards(path)
    if (path / "model.safetensors").exists():
        file = SafetensorsFile(path / "model.safetensors")
        return dict.fromkeys(file.entries, file)
    if (path / "pytorch_model.bin").exists():
        return _open_pickle(path / "pytorch_model.bin")
    raise CheckpointError(f"{path} holds no weights: model.safetensors, {SAFETENSORS_INDEX} or pytorch_model.bin is looked for")


def _open_shards(path: Path) -> dict[str, SafetensorsFile | Tensor]:
    index = path / SAFETENSORS_INDEX
    try:
        weight_map: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        names = {tensor: Path(file).name for tensor, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no safetensors index: {error!r}") from error
    files = {file: SafetensorsFile(path / file) for file in sorted(set(names.values()))}
    for tensor, file in names.items():
        if tensor not in files[file].entries:
            raise CheckpointError(f"{path / file} lacks {tensor}, which {index.name} says it holds")
    return {tensor: files[file] for tensor, file in names.items()}


def _open_pickle(path: Path) -> dict[str, SafetensorsFile | Tensor]:
    """Map a PyTorch file; only tensors are accepted from it, so it cannot run code."""
    try:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # torch raises many kinds here
        raise CheckpointError(f"cannot read {path} as tensors only: {str(error).splitlines()[0]}") from error


def verify_checksums(path: Path) -> None:
    """Compare the files that `SHA256SUMS` lists with it; nothing to do when there is no such file.

    Raises `CheckpointError` naming the first file that differs or is missing.
    """
    sums = path / CHECKSUMS
    if not sums.exists():
        return
    for line in sums.read_text("utf-8").splitlines():
        expected, _, name = line.partition("  ")
        file = path / Path(name.strip().lstrip("*")).name
        if not file.exists():
            raise CheckpointError(f"{path} lacks {file.name}, which {CHECKSUMS} lists")
        found = sha256_of(file)
        if found != expected.strip().lower():
            raise CheckpointError(f"{file} has sha256 {found}, but {CHECKSUMS} says {expected}; fetch it again")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
