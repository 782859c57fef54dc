"""Reads a directory in Hugging Face's layout: `config.json`, and one or several safetensors or PyTorch files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint
from labkit.checkpoints.fit import check_fit
from labkit.checkpoints.folder_config import read_config
from labkit.checkpoints.tensor_file import TensorFile
from labkit.checkpoints.tokenizer_files import find_tokenizer
from labkit.checkpoints.unsupported import refuse_files, refuse_quantized, refuse_quantized_tensors
from labkit.checkpoints.weight_files import PYTORCH, PYTORCH_INDEX, SAFETENSORS, SAFETENSORS_INDEX, in_order, open_weights
from labkit.errors import CheckpointError
from labkit.tokenizer import Tokenizer

CHECKSUMS = "SHA256SUMS"


class DirectoryCheckpoint(Checkpoint):
    """The weights of a local directory. Opening checks that every tensor exists with the right shape; reading checks values.

    Tensors that do not belong to the model that `config.json` describes are refused if they would change the model's results
    (more layers, biases, adapters); otherwise a warning names them. If there is a file `SHA256SUMS` (as `sha256sum` writes it),
    the checksums of the files are first compared with it.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or str(path)
        self.config = read_config(path)
        refuse_quantized(path)
        verify_checksums(path)
        weights = open_weights(path)
        if weights is None:
            refuse_files(path)
            raise CheckpointError(
                f"{path} holds no weights; one of the files {SAFETENSORS}, {SAFETENSORS_INDEX}, {PYTORCH} and "
                f"{PYTORCH_INDEX} is needed"
            )
        refuse_quantized_tensors(path, weights.names)
        self._tensors = weights.tensors
        check_fit(path, self.config, weights)
        self.weight_dtype = self._stored_dtype("transformer.wte.weight")

    def weight_files(self) -> Sequence[TensorFile]:
        """The weight files of the directory, ordered by their names."""
        return in_order(self._tensors.values())

    def _stored_dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].entries[name].dtype

    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        self._tensors[name].read(name, rows, columns, target)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of `tokenizer.json`, or of `vocab.json` and `merges.txt`."""
        assert self.path is not None
        return find_tokenizer([self.path], self.config.vocab_size)


def verify_checksums(path: Path) -> None:
    """Compare the SHA-256 of the files in a directory with the file `SHA256SUMS`, if the directory has one.

    Raises a `CheckpointError` that names the first file that is missing or has another checksum.
    """
    sums = path / CHECKSUMS
    if not sums.is_file():
        return
    for line in sums.read_text("utf-8", "replace").splitlines():
        if not line.strip():
            continue
        expected, _, name = line.strip().partition(" ")
        file = path / Path(name.strip().removeprefix("*")).name  # sha256sum marks binary mode with a star
        if len(expected) != 64 or file == path:
            raise CheckpointError(f"{sums} has a line {line!r}; only lines in the format of sha256sum are accepted")
        if not file.is_file():
            raise CheckpointError(f"{path} lacks {file.name}, which {CHECKSUMS} lists")
        found = sha256_of(file)
        if found != expected.lower():
            raise CheckpointError(
                f"{file} has sha256 {found}, but {CHECKSUMS} says {expected}; download or copy the file again"
            )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
