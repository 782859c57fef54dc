"""Seeded random weights of any GPT-J shape, made where they are needed: honest timings without a download."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint
from labkit.checkpoints.tokenizer import Tokenizer
from labkit.config import GPTJConfig
from labkit.errors import NotAvailable


class SyntheticCheckpoint(Checkpoint):
    """Normal weights whose scale keeps activations and logits in a trained model's range.

    Each tensor depends on `seed`, its name and the kind of device alone, not on the order or part that is read.
    """

    def __init__(self, config: GPTJConfig, name: str, seed: int = 0) -> None:
        self.config = config
        self.name = name
        self.path = None
        self.seed = seed
        self.weight_dtype = torch.float16

    def _read(self, name: str, shape: tuple[int, ...], rows: slice, columns: slice | None, device: torch.device) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
        tensor = torch.empty(shape, device=device, dtype=self.weight_dtype)
        tensor.normal_(self._mean(name), self._deviation(name, shape), generator=generator)
        tensor = tensor[rows] if rows != slice(0, shape[0], 1) else tensor
        return tensor if columns is None else tensor[:, columns].clone()

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
        """Refused: random weights have no language."""
        raise NotAvailable(f"{self.name} has random weights and no tokenizer; give prompts as token ids")
