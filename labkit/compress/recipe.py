"""The interface of every way to compress a model (`Recipe`).

A recipe gives `compress` the tensors of each block and of the head, and the settings to write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.output import Progress
from labkit.compress.block import Block
from labkit.config import GPTJConfig


@dataclass(frozen=True)
class WholeModel:
    """The arguments for a recipe that must see the whole model before the first block is written.

    `ids` are the calibration windows. `folder` is the unfinished folder; if the work is stopped, the files in it are kept for
    the next call.
    """

    checkpoint: Checkpoint
    ids: Sequence[Sequence[int]]
    folder: Path
    seed: int
    progress: Progress


class Recipe(ABC):
    """A way to quantize a model."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the method on the command line, such as int4-gptq."""

    @property
    @abstractmethod
    def calibrated(self) -> bool:
        """Whether the method needs the hidden states of a calibration text. If not, `hidden` is empty."""

    @property
    def whole_text(self) -> bool:
        """Whether all of the calibration text is used if the number of windows is not given."""
        return False

    @abstractmethod
    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` if a model of this shape cannot be quantized in this way."""

    def prepared(self, model: WholeModel) -> Recipe:
        """Return a recipe with everything that it needs from the whole model. A recipe that needs nothing returns itself."""
        return self

    def source(self, checkpoint: Checkpoint) -> Checkpoint:
        """The model whose blocks are written. It gives the same results as `checkpoint`, but its channels can be reordered."""
        return checkpoint

    @abstractmethod
    def bits_per_weight(self, config: GPTJConfig) -> float:
        """The mean bits per weight of the blocks' matrices, including their scales and zero points."""

    @abstractmethod
    def block_tensors(self, block: Block, hidden: Sequence[Tensor], layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors to store for block `layer`, by their names without the prefix `transformer.h.N.`.

        Dense tensors are stored in `dtype`. `hidden` are the states that enter the block, one tensor for each calibration
        window. `block` is changed.
        """

    @abstractmethod
    def head_tensors(
        self, tensors: dict[str, Tensor], epsilon: float, hidden: Sequence[Tensor], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """The tensors to store for the last layer norm and the head. `tensors` are the dense tensors, by the same names."""

    @abstractmethod
    def quantization_config(self) -> dict[str, Any]:
        """The `quantization_config` of `config.json`, in the form of compressed-tensors."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All settings that change the result, as JSON values."""
