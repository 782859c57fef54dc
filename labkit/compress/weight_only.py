"""The recipe for integer weights: the methods of `labkit.compress.method`, stored in the format "pack-quantized"."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerWeight
from labkit.compress import pack_quantized
from labkit.compress.block import MATRICES, Block
from labkit.compress.choose_bits import SENSITIVITY, with_chosen_bits
from labkit.compress.layer import quantize_block, quantize_head, with_dense_tensors
from labkit.compress.method import HEAD, Method
from labkit.compress.pack_quantized import packed_tensors
from labkit.compress.recipe import Recipe, WholeModel
from labkit.compress.train_matrices import train_matrices
from labkit.compress.work_folder import TRAINING
from labkit.config import GPTJConfig


@dataclass(frozen=True)
class WeightOnly(Recipe):
    """Quantizes weights with a method; the stored model does not round activations.

    `trained` maps full names without `.weight` to the matrices of all blocks; it is filled after a method has trained them.
    """

    method: Method
    trained: Mapping[str, IntegerWeight] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the method (`Method.name`)."""
        return self.method.name

    @property
    def calibrated(self) -> bool:
        """Whether the method needs calibration text (`Method.calibrated`)."""
        return self.method.calibrated

    @property
    def whole_text(self) -> bool:
        """True if the method trains, because training uses all of the calibration text."""
        return self.method.algorithm == "qat"

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` if the group size does not divide the length of a matrix's rows."""
        self.method.check(config)

    def prepared(self, model: WholeModel) -> WeightOnly:
        """Return a recipe that has the bits of each matrix (for mixed precision) or the trained matrices (for qat)."""
        method = with_chosen_bits(model.checkpoint, self.method, model.ids, model.folder / SENSITIVITY, model.progress)
        trained = train_matrices(model, method, model.folder / TRAINING) if method.algorithm == "qat" else {}
        return WeightOnly(method, trained)

    def bits_per_weight(self, config: GPTJConfig) -> float:
        """The mean bits per weight of the blocks' matrices (`Method.bits_per_weight`)."""
        return self.method.bits_per_weight(config)

    def block_tensors(self, block: Block, hidden: Sequence[Tensor], layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """The packed tensors of a block: the result of `quantize_block`, or the trained matrices."""
        full = {module: f"transformer.h.{layer}.{module}" for module in MATRICES}
        if self.trained:
            found = with_dense_tensors(block, {module: self.trained[name] for module, name in full.items()}, dtype)
        else:
            schemes = {module: self.method.scheme_of(name) for module, name in full.items()}
            found = quantize_block(block, self.method, hidden, f"block {layer}", dtype, schemes)
        return packed_tensors(found)

    def head_tensors(
        self, tensors: dict[str, Tensor], epsilon: float, hidden: Sequence[Tensor], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """The packed result of `quantize_head`."""
        return packed_tensors(quantize_head(tensors, self.method, epsilon, hidden, dtype))

    def quantization_config(self) -> dict[str, Any]:
        """The result of `pack_quantized.quantization_config`."""
        return pack_quantized.quantization_config(self.method)

    def settings(self) -> dict[str, Any]:
        """All settings that change the result: the schemes, and the options of GPTQ, mixed precision and training."""
        method, blocks = self.method, str(self.method.scheme)
        found: dict[str, Any] = {"blocks": blocks, "head": str(HEAD)}
        if method.algorithm in ("gptq", "qat"):
            found |= {"damping": method.damping, "activation_order": method.activation_order}
        if method.average_bits is not None:
            mixed = blocks.replace(f"int{method.scheme.bits}", "mixed bits")
            found |= {"blocks": mixed, "average_bits": method.average_bits}
        if method.algorithm == "qat":
            found |= {"training": asdict(method.training)}
        if method.rounding:  # the function may have changed, so blocks from an earlier call are not reused
            found["rounding"] = uuid.uuid4().hex
        return found
