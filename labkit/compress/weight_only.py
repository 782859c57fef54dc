"""The recipe for weights in integers: the methods of `labkit.compress.method`, stored in the format "pack-quantized"."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.compress import pack_quantized
from labkit.compress.block import Block
from labkit.compress.layer import quantize_block, quantize_head
from labkit.compress.method import HEAD, Method
from labkit.compress.pack_quantized import packed_tensors
from labkit.compress.recipe import Recipe
from labkit.config import GPTJConfig


class WeightOnly(Recipe):
    """Quantizes weights by a method; activations are not rounded."""

    def __init__(self, method: Method) -> None:
        self.method = method

    @property
    def name(self) -> str:
        """`Method.name`."""
        return self.method.name

    @property
    def calibrated(self) -> bool:
        """`Method.calibrated`."""
        return self.method.calibrated

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` if the groups do not divide the rows of a matrix."""
        self.method.check(config)

    def bits_per_weight(self, config: GPTJConfig) -> float:
        """`Method.bits_per_weight`."""
        return self.method.bits_per_weight(config)

    def block_tensors(self, block: Block, hidden: Sequence[Tensor], where: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """`quantize_block`, packed."""
        return packed_tensors(quantize_block(block, self.method, hidden, where, dtype), "")

    def head_tensors(
        self, tensors: dict[str, Tensor], epsilon: float, hidden: Sequence[Tensor], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """`quantize_head`, packed."""
        return packed_tensors(quantize_head(tensors, self.method, epsilon, hidden, dtype), "")

    def quantization_config(self) -> dict[str, Any]:
        """`pack_quantized.quantization_config`."""
        return pack_quantized.quantization_config(self.method)

    def settings(self) -> dict[str, Any]:
        """The scheme, and GPTQ's options."""
        found: dict[str, Any] = {"blocks": str(self.method.scheme), "head": str(HEAD)}
        if self.method.algorithm == "gptq":
            found |= {"damping": self.method.damping, "activation_order": self.method.activation_order}
        if (
            self.method.rounding
        ):  # the function may have changed since an earlier call, so parts of that call are not used again
            found["rounding"] = uuid.uuid4().hex
        return found
