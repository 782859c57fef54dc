"""Reads a directory in Hugging Face's layout with quantized or 2:4 sparse matrices of compressed-tensors or GPTQ."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.directory import verify_checksums
from labkit.checkpoints.eight_bit_matrix import EightBitMatrix, part_of
from labkit.checkpoints.eight_bit_scheme import scheme_for
from labkit.checkpoints.fit import check_fit
from labkit.checkpoints.folder_config import read_config
from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.checkpoints.quantization_config import COMPRESSED_TENSORS, StoredQuantization, stored_quantization
from labkit.checkpoints.sparse_matrix import sparse_matrix
from labkit.checkpoints.stored_matrix import GptqMatrix, PackQuantized, StoredMatrix, StoredWeight
from labkit.checkpoints.tensor_file import TensorFile
from labkit.checkpoints.tokenizer_files import find_tokenizer
from labkit.checkpoints.weight_files import WeightFiles, in_order, open_weights
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError
from labkit.tokenizer import Tokenizer
from labkit.weight_formats import RowScaledWeight

READ_THE_NORM = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc_in")
"""The matrices of a block that read the output of its layer norm, so all of these matrices have the same inputs."""
_BLOCK_NUMBERS = 1 << 22
"""A matrix is dequantized in blocks of about this many numbers."""


class QuantizedDirectoryCheckpoint(Checkpoint):
    """The weights of a local directory that a quantizer wrote.

    `read` returns dense tensors with the stored values; `integers` returns a matrix as it is stored. Opening checks that every
    tensor exists with the right shape. Matrices that the quantizer left dense are read unchanged.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or str(path)
        self.config = read_config(path)
        stored, weights = stored_quantization(path), open_weights(path)
        if stored is None or weights is None:
            raise CheckpointError(f"{path} holds no quantized weights in a format that labkit reads")
        if stored.cache:
            warnings.warn(
                f"{path} has a kv_cache_scheme, which is ignored: labkit computes the scales of an 8-bit KV cache while it "
                "runs; --kv-cache-dtype chooses the cache's dtype",
                stacklevel=1,
            )
        verify_checksums(path)
        self._matrices = _matrices(path, self.config, stored, weights)
        check_fit(path, self.config, weights, {name: matrix.names for name, matrix in self._matrices.items()})
        self._tensors, self._integers = weights.tensors, weights.integers
        self.weight_dtype = self._stored_dtype("transformer.wte.weight")

    def integers(self, name: str, rows: slice | None = None, columns: slice | None = None) -> StoredWeight | None:
        """Read a matrix, or some of its rows and columns, as it is stored; return None if it is stored dense.

        If the matrix is 2:4 sparse, or if its inputs are rounded as well as its weights, the result is in the format that its
        kernels read.
        """
        if name not in self._matrices:
            return None
        matrix = self._matrices[name]
        begin, end, _ = (rows or slice(None)).indices(matrix.shape[0])
        found = matrix.integers(slice(begin, end))
        if columns is None:
            return found
        return part_of(found, columns) if isinstance(found, RowScaledWeight) else found.part(columns)

    @functools.cached_property
    def kernel_precision(self) -> str | None:
        """The name of the matrices' format if labkit has kernels for the matrices of all layers as they are stored, else None.

        All layers must have the same format, and q, k and v of a block the same groups, because they are stacked. The head can
        have another format or be dense.
        """
        names = [name for name, shape in expected_shapes(self.config).items() if len(shape) == 2 and ".h." in name]
        kinds = {self._matrices[name].kernel_kind() if name in self._matrices else None for name in names}
        head = self._matrices.get("lm_head.weight")
        if len(kinds) > 1 or None in kinds or "transformer.wte.weight" in self._matrices:
            return None
        if not self._inputs_agree() or not self._stacks_agree():
            return None
        return None if head is not None and head.kernel_kind() is None else kinds.pop()

    def _inputs_agree(self) -> bool:
        """Whether, in each block, the four matrices that read the layer norm have the same input scale (or none)."""
        for layer in range(self.config.num_layers):
            names = (f"transformer.h.{layer}.{each}.weight" for each in READ_THE_NORM)
            found = (self._matrices.get(name) for name in names)
            if len({each.input_scale for each in found if isinstance(each, EightBitMatrix)}) > 1:
                return False
        return True

    def _stacks_agree(self) -> bool:
        """Whether, in each block, q, k and v are stored alike, so that their rows can be stacked into one matrix."""
        for layer in range(self.config.num_layers):
            if len({_layout(self._matrices[f"transformer.h.{layer}.attn.{each}_proj.weight"]) for each in "qkv"}) > 1:
                return False
        return True

    @property
    def schemes(self) -> str:
        """The formats of the matrices in words, such as "int3 in groups of 64, int8 per channel"."""
        return ", ".join(dict.fromkeys(str(matrix.scheme) for matrix in self._matrices.values()))

    def weight_files(self) -> Sequence[TensorFile]:
        """The weight files of the directory, ordered by their names."""
        return in_order([*self._tensors.values(), *self._integers.values()])

    def _stored_dtype(self, name: str) -> torch.dtype:
        if name in self._matrices:
            return self.weight_dtype
        return self._tensors[name].entries[name].dtype

    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        if name not in self._matrices:
            self._tensors[name].read(name, rows, columns, target)
            return
        matrix = self._matrices[name]
        step = max(_BLOCK_NUMBERS // matrix.shape[1], 1)
        for begin in range(rows.start, rows.stop, step):
            block = matrix.integers(slice(begin, min(begin + step, rows.stop)))
            dense = block.dequantize()
            target[begin - rows.start : begin - rows.start + len(dense)] = dense if columns is None else dense[:, columns]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of `tokenizer.json`, or of `vocab.json` and `merges.txt`."""
        assert self.path is not None
        return find_tokenizer([self.path], self.config.vocab_size)


def _layout(matrix: StoredMatrix) -> object:
    """What must be equal in matrices of the same kind that are stacked: the number of columns of a group, or the format."""
    if isinstance(matrix.scheme, IntegerScheme):
        return min(matrix.scheme.group_of(matrix.shape[1]), matrix.shape[1])
    return type(matrix)


def stored_matrix(
    path: Path, stored: StoredQuantization, weights: WeightFiles, name: str, shape: tuple[int, int]
) -> StoredMatrix | None:
    """The matrix that a dense directory calls `name`, if this directory stores it in a quantized form; otherwise None."""
    module = name.removesuffix(".weight")
    if stored.sparse and f"{module}.bitmask" in weights.names:
        return sparse_matrix(path, weights, module, shape, stored)
    if name in weights.integers and (scheme := scheme_for(stored.eight_bit, module)):
        return EightBitMatrix(path, weights, module, shape, scheme)
    if name in weights.names or not any(each.startswith(f"{module}.") for each in weights.names):
        return None
    if stored.method == COMPRESSED_TENSORS:
        return PackQuantized(path, weights, module, shape, stored.schemes)
    return GptqMatrix(path, weights, module, shape, stored.schemes[0], stored.zero_offset)


def _matrices(path: Path, config: GPTJConfig, stored: StoredQuantization, weights: WeightFiles) -> dict[str, StoredMatrix]:
    """Every matrix that is stored in a quantized form. The keys are the names that the matrices have in a dense directory."""
    found: dict[str, StoredMatrix] = {}
    for name, shape in expected_shapes(config).items():
        if len(shape) != 2:
            continue
        matrix = stored_matrix(path, stored, weights, name, (shape[0], shape[1]))
        if matrix is not None:
            found[name] = matrix
    return found
