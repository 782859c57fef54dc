"""Finds the tensors of one matrix in the files of a quantized model, checks that they fit together, and reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.bit_packing import WITH_GAPS, WORD, unpack, unpack_with_gaps, words_of
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight, kernel_bits
from labkit.checkpoints.weight_files import WeightFiles
from labkit.errors import CheckpointError
from labkit.weight_formats import RowScaledWeight, Sparse24Int8Weight, Sparse24Weight

StoredWeight = IntegerWeight | RowScaledWeight | Sparse24Weight | Sparse24Int8Weight
"""The forms in which a matrix of a quantized directory is read."""


class StoredMatrix(ABC):
    """The tensors of one quantized matrix; `shape` is (out, in). Each format is a subclass.

    `parts` are the endings of the tensors' names, and `names` are the names of the tensors that exist. The constructor raises a
    `CheckpointError` that names the tensor if a tensor is missing or has a wrong shape.
    """

    scheme: object
    """How the numbers are stored; `str(scheme)` describes it in words."""
    parts: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def __init__(self, folder: Path, weights: WeightFiles, module: str, shape: tuple[int, int]) -> None:
        self.folder, self.module, self.shape = folder, module, shape
        self._files = weights.tensors | weights.integers
        for part in self.parts:
            if self.name(part) not in self._files and part not in self.optional:
                raise CheckpointError(f"{folder} lacks {self.name(part)}, without which {module} cannot be read; copy it again")
        self.names = [self.name(part) for part in self.parts if self.name(part) in self._files]

    def name(self, part: str) -> str:
        """The name of the tensor with the ending `part`."""
        return f"{self.module}.{part}"

    def has(self, part: str) -> bool:
        """Whether the tensor with this ending exists."""
        return self.name(part) in self._files

    def load(self, part: str, rows: slice | None = None) -> Tensor:
        """Read the tensor with this ending, or some of its rows. Raises `CheckpointError` if a number in it is not finite."""
        name = self.name(part)
        found = self._files[name].load(name, rows)
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{self.folder}: {name} holds values that are NaN or infinite")
        return found

    def shape_of(self, part: str) -> tuple[int, ...]:
        """The shape of the tensor with this ending."""
        return self._files[self.name(part)].entry(self.name(part)).shape

    def dtype_of(self, part: str) -> torch.dtype:
        """The dtype of the tensor with this ending."""
        return self._files[self.name(part)].entry(self.name(part)).dtype

    @abstractmethod
    def integers(self, rows: slice) -> StoredWeight:
        """Read some consecutive rows of the matrix."""

    @abstractmethod
    def kernel_kind(self) -> str | None:
        """The kind of weight whose kernels read the matrix as it is stored, such as int8; None if labkit has no such kernels.

        To find out, this method reads the scales and zero points.
        """

    def refuse(self, part: str, accepted: str) -> CheckpointError:
        """Return the error for a tensor with a wrong shape or dtype; `accepted` says what is needed."""
        found = f"shape {self.shape_of(part)} and {str(self.dtype_of(part)).removeprefix('torch.')}"
        return CheckpointError(f"{self.folder}: {self.name(part)} has {found}, but {accepted} is needed")


def kind_of_bits(bits: int | None) -> str | None:
    """The kind of weight whose integers have this many bits, such as "int8"; None if `bits` is None."""
    return None if bits is None else f"int{bits}"


def _columns(matrix: StoredMatrix, part: str, scheme: IntegerScheme) -> Tensor | None:
    """The group of each column, from the tensor with the ending `part`; None if it is missing or the groups are in order."""
    if not matrix.has(part):
        return None
    found, inner = matrix.load(part).long(), matrix.shape[1]
    if bool((found == -1).all()):  # compressed-tensors begins with -1, and keeps it where nothing was reordered
        return None
    if not bool(((found >= 0) & (found < scheme.groups(inner))).all()):
        raise CheckpointError(f"{matrix.folder}: {matrix.name(part)} names groups outside 0 to {scheme.groups(inner) - 1}")
    in_order = torch.arange(inner, dtype=found.dtype, device=found.device) // scheme.group_of(inner)
    return None if torch.equal(found, in_order) else found


class PackQuantized(StoredMatrix):
    """A matrix in the format "pack-quantized" of compressed-tensors: integers packed into int32 words, and their scales.

    `weight_packed` `[out, words]` holds the sum integer + 2^(bits - 1) for each weight. `weight_scale` is `[out, groups]`.
    `weight_zero_point` `[words of out, groups]` is packed down the columns; it exists only if the scheme is not symmetric.
    `weight_g_idx` `[in]` is the group of each input; it exists only if the inputs were reordered (actorder "group").
    """

    scheme: IntegerScheme
    parts = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
    optional = ("weight_shape", "weight_zero_point", "weight_g_idx")

    def __init__(
        self, folder: Path, weights: WeightFiles, module: str, shape: tuple[int, int], schemes: Sequence[IntegerScheme]
    ) -> None:
        super().__init__(folder, weights, module, shape)
        if self.has("weight_shape") and (said := tuple(self.load("weight_shape").tolist())) != shape:
            raise CheckpointError(f"{folder}: {module}.weight_shape says {said}, but config.json calls for {shape}")
        # 7 bits with gaps fill as many words as 8 bits without gaps, so the layout with gaps is tried last.
        found = [scheme for scheme in schemes if self._has_words(words_of(shape[1], scheme.bits))]
        found = found or [scheme for scheme in schemes if self._has_words(-(-shape[1] // (32 // scheme.bits)))]
        if not found or self.dtype_of("weight_packed") != torch.int32:
            words = " or ".join(f"{[shape[0], words_of(shape[1], each.bits)]} ({each.bits} bits)" for each in schemes)
            raise self.refuse("weight_packed", f"int32 of shape {words}")
        fitting = [scheme for scheme in found if self.shape_of("weight_scale") == (shape[0], scheme.groups(shape[1]))]
        if not fitting or not self.dtype_of("weight_scale").is_floating_point:
            shapes = " or ".join(str([shape[0], scheme.groups(shape[1])]) for scheme in found)
            raise self.refuse("weight_scale", f"floating point of shape {shapes}")
        symmetric = not self.has("weight_zero_point")
        self.scheme = next((scheme for scheme in fitting if scheme.symmetric == symmetric), None) or self._no_zeros()
        self.gaps = self.shape_of("weight_packed")[1] != words_of(shape[1], self.scheme.bits)
        self._check_zeros()
        if self.has("weight_g_idx") and self.shape_of("weight_g_idx") != (shape[1],):
            raise self.refuse("weight_g_idx", f"shape {[shape[1]]}")
        self.columns = _columns(self, "weight_g_idx", self.scheme)

    def _has_words(self, count: int) -> bool:
        return self.shape_of("weight_packed") == (self.shape[0], count)

    def _no_zeros(self) -> IntegerScheme:
        have = "has" if self.has("weight_zero_point") else "lacks"
        raise CheckpointError(
            f"{self.folder} {have} {self.name('weight_zero_point')}, but config.json says "
            f"symmetric is {str(have == 'has').lower()}"
        )

    def _check_zeros(self) -> None:
        if self.scheme.symmetric:
            return
        out, groups = self.shape[0], self.scheme.groups(self.shape[1])
        expected = words_of(out, self.scheme.bits), groups
        if self.shape_of("weight_zero_point") != expected or self.dtype_of("weight_zero_point") != torch.int32:
            raise self.refuse("weight_zero_point", f"int32 of shape {list(expected)}")

    def kernel_kind(self) -> str | None:
        """The kind "int8" or "int4" if labkit has kernels for the matrix as it is stored, otherwise None."""
        if self.columns is not None:
            return None
        return kind_of_bits(kernel_bits(self.scheme, self.shape[1], self.load("weight_scale")))

    def integers(self, rows: slice) -> IntegerWeight:
        """Read some consecutive rows of the matrix."""
        bits, half = self.scheme.bits, 1 << (self.scheme.bits - 1)
        packed = self.load("weight_packed", rows)
        numbers = (unpack_with_gaps if self.gaps else unpack)(packed, bits, self.shape[1])
        values = (numbers.to(torch.int16) - half).to(torch.int8)
        zeros = None
        if not self.scheme.symmetric:
            down = unpack(self.load("weight_zero_point").t().contiguous(), bits, self.shape[0]).t()[rows]
            zeros = (down.to(torch.int16) - half).to(torch.int8)
        return IntegerWeight(self.scheme, values, self.load("weight_scale", rows), zeros, self.columns)


class GptqMatrix(StoredMatrix):
    """A matrix in the layout of AutoGPTQ and GPTQModel, which store it transposed.

    `qweight` `[words of in, out]` is packed down the columns, `qzeros` `[groups, words of out]` is packed along the rows,
    `scales` is `[groups, out]`, and `g_idx` `[in]` is the group of each input (missing, or in order, if the inputs were not
    reordered).
    """

    scheme: IntegerScheme
    parts = ("qweight", "qzeros", "scales", "g_idx")
    optional = ("g_idx",)

    def __init__(
        self,
        folder: Path,
        weights: WeightFiles,
        module: str,
        shape: tuple[int, int],
        scheme: IntegerScheme,
        zero_offset: int,
    ) -> None:
        super().__init__(folder, weights, module, shape)
        self.scheme, self.zero_offset = scheme, zero_offset
        (out, inner), bits = shape, scheme.bits
        groups = scheme.groups(inner)
        expected = {
            "qweight": (words_of(inner, bits), out),
            "qzeros": (groups, words_of(out, bits)),
            "scales": (groups, out),
            "g_idx": (inner,),
        }
        for part, size in expected.items():
            if self.has(part) and self.shape_of(part) != size:
                raise self.refuse(part, f"shape {list(size)} ({bits} bits, groups of {scheme.group_of(inner)})")
        self.columns = _columns(self, "g_idx", scheme)

    def _zeros(self) -> Tensor:
        """The zero points `[groups, out]` int16.

        The first version of the format stores each zero point minus 1. GPTQModel subtracts on whole words, so a zero point of 0
        borrows from the next number of its word. To undo this, the sum is also taken on whole words. Numbers of 3 bits do not
        fill words evenly, and the sum is taken after unpacking.
        """
        words, bits = self.load("qzeros"), self.scheme.bits
        if bits in WITH_GAPS:
            return unpack(words, bits, self.shape[0]).to(torch.int16) + self.zero_offset
        ones = sum(1 << place for place in range(0, WORD, bits))
        return unpack(words.to(torch.int64) + ones * self.zero_offset, bits, self.shape[0]).to(torch.int16)

    def kernel_kind(self) -> str | None:
        """The kind "int8" or "int4" if labkit has kernels for the matrix as it is stored, otherwise None."""
        zeros = self._zeros()
        if self.columns is not None or bool((zeros != 1 << (self.scheme.bits - 1)).any()):
            return None
        scheme = IntegerScheme(self.scheme.bits, self.scheme.group_size)
        return kind_of_bits(kernel_bits(scheme, self.shape[1], self.load("scales")))

    def integers(self, rows: slice) -> IntegerWeight:
        """Read some consecutive rows of the matrix."""
        bits, half = self.scheme.bits, 1 << (self.scheme.bits - 1)
        numbers = unpack(self.load("qweight")[:, rows].t().contiguous(), bits, self.shape[1])
        zeros = self._zeros()[:, rows].t()
        scales = self.load("scales")[:, rows].t().contiguous()
        values = (numbers.to(torch.int16) - half).to(torch.int8)
        if bool((zeros == half).all()):
            scheme = IntegerScheme(bits, self.scheme.group_size)
            return IntegerWeight(scheme, values, scales, None, self.columns)
        return IntegerWeight(self.scheme, values, scales, (zeros - half).contiguous(), self.columns)
