"""Reads 2:4 sparse matrices in the format "sparse-24-bitmask" of compressed-tensors, quantized to integers or not.

`bitmask` `[out, in / 8]` uint8 has a bit for each weight, the lowest bit for the first of eight columns; 1 means that the
weight is kept (nonzero). The kept weights are stored one after another. The names of the tensors come from
https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.checkpoints.bit_packing import unpack, words_of
from labkit.checkpoints.eight_bit_scheme import scheme_for
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight, kernel_bits
from labkit.checkpoints.quantization_config import StoredQuantization
from labkit.checkpoints.stored_matrix import StoredMatrix, kind_of_bits
from labkit.checkpoints.weight_files import WeightFiles
from labkit.errors import CheckpointError
from labkit.weight_formats import Sparse24Int8Weight, Sparse24Weight
from labkit.weight_formats.sparse24 import largest_places, padded_fours


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a bool mask `[out, in]` into bits, `[out, in / 8 rounded up]` uint8."""
    bits = F.pad(mask.to(torch.uint8), (0, -mask.shape[1] % 8)).view(len(mask), -1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(-1, dtype=torch.uint8)


def unpack_mask(bits: Tensor, in_features: int) -> Tensor:
    """Unpack bits `[out, in / 8 rounded up]` uint8 into a bool mask `[out, in_features]`."""
    found = bits[..., None] >> torch.arange(8, dtype=torch.uint8, device=bits.device) & 1
    return found.flatten(1)[:, :in_features].bool()


class SparseMatrix(StoredMatrix):
    """The base class of both forms of sparse matrices. In `bitmask`, two bits are set for every four neighbours in a row."""

    def mask(self, rows: slice) -> Tensor:
        """The mask `[rows, in]` (bool) of the weights that are kept in some rows.

        Raises `CheckpointError` unless two of every four weights are kept.
        """
        found = unpack_mask(self.load("bitmask", rows), self.shape[1])
        if bool((found.view(len(found), -1, 4).sum(-1) != 2).any()):
            raise CheckpointError(
                f"{self.folder}: {self.name('bitmask')} does not keep two of every four weights; copy it again"
            )
        return found

    def kept(self, values: Tensor, rows: slice) -> Sparse24Weight:
        """Build some rows of the matrix from the kept weights of these rows, `values` `[rows, in / 2]`."""
        mask = self.mask(rows)
        places = largest_places(padded_fours(mask.to(torch.uint8)))
        return Sparse24Weight.of_places(padded_fours(_with_zeros(values, mask)), places, self.shape[1], values.dtype)

    def check(self, shape_part: str) -> None:
        """Raise `CheckpointError` if the bitmask, or the shape that is stored beside it, does not fit the matrix."""
        if self.has(shape_part) and (said := tuple(self.load(shape_part).flatten().tolist())) != self.shape:
            raise CheckpointError(f"{self.folder}: {self.name(shape_part)} says {said}, but config.json calls for {self.shape}")
        expected = self.shape[0], -(-self.shape[1] // 8)
        if self.shape[1] % 4 or self.shape_of("bitmask") != expected or self.dtype_of("bitmask") != torch.uint8:
            raise self.refuse("bitmask", f"uint8 of shape {list(expected)}")


class Sparse24Matrix(SparseMatrix):
    """A 2:4 sparse matrix in floating point: `compressed` is `[out, in / 2]`."""

    scheme = "2:4 sparse"
    parts = ("compressed", "bitmask", "shape")
    optional = ("shape",)

    def __init__(self, folder: Path, weights: WeightFiles, module: str, shape: tuple[int, int]) -> None:
        super().__init__(folder, weights, module, shape)
        self.check("shape")
        if self.shape_of("compressed") != (shape[0], shape[1] // 2) or not self.dtype_of("compressed").is_floating_point:
            raise self.refuse("compressed", f"floating point of shape {[shape[0], shape[1] // 2]}")

    def kernel_kind(self) -> str:
        """Return "sparse24": the kernels for this kind of weight read the matrix as it is stored."""
        return Sparse24Weight.kind

    def integers(self, rows: slice) -> Sparse24Weight:
        """Read some consecutive rows of the matrix."""
        return self.kept(self.load("compressed", rows), rows)


class SparseIntegers(SparseMatrix):
    """A 2:4 sparse matrix of integers.

    The kept integers are `compressed` `[out, in / 2]` int8 for 8 bits, otherwise `weight_packed` `[out, words of in / 2]`
    int32.

    `weight_scale` is `[out, groups]`; a group consists of neighbours in the whole matrix, kept or pruned. compressed-tensors
    writes the 8-bit form for "int-quantized" with a bitmask. compressed-tensors has no form for packed integers with a bitmask;
    only labkit reads such files.
    """

    scheme: IntegerScheme
    parts = ("compressed", "weight_packed", "bitmask", "shape", "weight_shape", "weight_scale")
    optional = ("compressed", "weight_packed", "shape", "weight_shape")

    def __init__(self, folder: Path, weights: WeightFiles, module: str, shape: tuple[int, int], scheme: IntegerScheme) -> None:
        super().__init__(folder, weights, module, shape)
        self.scheme = scheme
        self.numbers = "compressed" if scheme.bits == 8 else "weight_packed"
        self.check("shape" if scheme.bits == 8 else "weight_shape")
        if not self.has(self.numbers):
            raise CheckpointError(
                f"{folder} lacks {self.name(self.numbers)}, without which {module} cannot be read; copy it again"
            )
        count = shape[1] // 2 if scheme.bits == 8 else words_of(shape[1] // 2, scheme.bits)
        dtype = torch.int8 if scheme.bits == 8 else torch.int32
        if self.shape_of(self.numbers) != (shape[0], count) or self.dtype_of(self.numbers) != dtype:
            raise self.refuse(self.numbers, f"{str(dtype).removeprefix('torch.')} of shape {[shape[0], count]}")
        expected = shape[0], scheme.groups(shape[1])
        if self.shape_of("weight_scale") != expected or not self.dtype_of("weight_scale").is_floating_point:
            raise self.refuse("weight_scale", f"floating point of shape {list(expected)}")

    def kernel_kind(self) -> str | None:
        """The kind "sparse24_int8", or "int4" if labkit has kernels for the matrix with its zeros filled in, otherwise None."""
        if self.scheme.bits == 8:
            return Sparse24Int8Weight.kind
        return kind_of_bits(kernel_bits(self.scheme, self.shape[1], self.load("weight_scale")))

    def integers(self, rows: slice) -> IntegerWeight | Sparse24Int8Weight:
        """Read some consecutive rows of the matrix.

        If the integers have fewer than 8 bits, the result is a dense matrix in which the pruned weights are 0.
        """
        stored, scales = self.load(self.numbers, rows), self.load("weight_scale", rows)
        if self.scheme.bits == 8:
            return Sparse24Int8Weight(self.kept(stored, rows), scales[:, 0].float().contiguous())
        half = 1 << (self.scheme.bits - 1)
        numbers = (unpack(stored, self.scheme.bits, self.shape[1] // 2).to(torch.int16) - half).to(torch.int8)
        return IntegerWeight(self.scheme, _with_zeros(numbers, self.mask(rows)), scales)


def _with_zeros(kept: Tensor, mask: Tensor) -> Tensor:
    """The dense matrix of a bool mask `[rows, in]` and the numbers `[rows, in / 2]` that it keeps, with zeros elsewhere."""
    found = torch.zeros(mask.shape, dtype=kept.dtype, device=mask.device)
    found[mask] = kept.flatten()
    return found


def sparse_matrix(
    folder: Path, weights: WeightFiles, module: str, shape: tuple[int, int], stored: StoredQuantization
) -> SparseMatrix:
    """The 2:4 sparse matrix of a module. Raises `CheckpointError` for a form that labkit does not read."""
    if f"{module}.weight_scale" not in weights.names:
        return Sparse24Matrix(folder, weights, module, shape)
    eight = scheme_for(stored.eight_bit, module)
    packed = [scheme for scheme in stored.schemes if scheme.symmetric]
    if eight is not None and eight.number == "int" and eight.per_row and eight.inputs is None:
        return SparseIntegers(folder, weights, module, shape, IntegerScheme(8))
    if len(packed) != 1 or f"{module}.weight_packed" not in weights.names:
        raise CheckpointError(
            f"{folder}: {module} is 2:4 sparse and quantized in a form that labkit does not read; accepted are int8 with a "
            "scale for each row, and packed integers of one scheme without zero points; inputs must not be rounded"
        )
    return SparseIntegers(folder, weights, module, shape, packed[0])
