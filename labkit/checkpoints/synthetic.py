"""Seeded random weights for any GPT-J config, for timings without a download. They are generated when they are read."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.config import GPTJConfig
from labkit.errors import NotAvailable
from labkit.tokenizer import Tokenizer

BLOCK_VALUES = 8 * 2**20
"""Weights are generated in blocks of whole rows with about this many values; each block has its own seed."""


class SyntheticCheckpoint(Checkpoint):
    """Normally distributed weights, scaled so that activations and logits are as large as in a trained model.

    A weight depends only on `seed`, its tensor, its row and the kind of device. The order in which slices are read does not
    matter.
    """

    def __init__(self, config: GPTJConfig, name: str, seed: int = 0) -> None:
        self.config = config
        self.name = name
        self.path = None
        self.seed = seed
        self.weight_dtype = torch.float16

    def _stored_dtype(self, name: str) -> torch.dtype:
        return self.weight_dtype

    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        shape = expected_shapes(self.config)[name]
        step = max(1, BLOCK_VALUES // math.prod(shape[1:]))
        for first in range(rows.start // step * step, rows.stop, step):
            block = self._block(name, shape, first, min(step, shape[0] - first), target.device)
            begin, end = max(first, rows.start), min(first + step, rows.stop)
            part = block[begin - first : end - first]
            target[begin - rows.start : end - rows.start] = part if columns is None else part[:, columns]

    def _block(self, name: str, shape: tuple[int, ...], first: int, count: int, device: torch.device) -> Tensor:
        """Generate `count` rows, beginning at row `first`."""
        digest = hashlib.sha256(f"{self.seed}/{name}/{first}".encode()).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
        block = torch.empty((count, *shape[1:]), device=device, dtype=self.weight_dtype)
        return block.normal_(self._mean(name), self._deviation(name, shape), generator=generator)

    @staticmethod
    def _mean(name: str) -> float:
        return 1.0 if name.endswith(("ln_1.weight", "ln_f.weight")) else 0.0

    def _deviation(self, name: str, shape: tuple[int, ...]) -> float:
        if len(shape) == 1:
            return 0.1 if "ln_" in name else 0.02
        if name == "transformer.wte.weight":
            return 1.0
        into_residual = name.endswith(("out_proj.weight", "fc_out.weight"))
        return math.sqrt(1 / shape[1]) / (math.sqrt(2 * self.config.num_layers) if into_residual else 1.0)

    def tokenizer(self) -> Tokenizer:
        """Always raises `NotAvailable`, because random weights have no tokenizer."""
        raise NotAvailable(f"{self.name} has random weights and no tokenizer; give prompts as token ids")
