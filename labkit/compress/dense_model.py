"""A whole GPT-J in float32 on the CPU, for methods that need the model's predictions with some matrices replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.compress.block import Block


class DenseModel:
    """All tensors of a checkpoint in float32, by their Hugging Face names. All of them are in memory at once."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self.tensors = {name: checkpoint.read(name, dtype=torch.float32) for name in checkpoint.tensor_names()}

    def embedded(self, ids: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """The states before the first block, `[tokens, hidden_size]`.

        For several windows, which must have equal lengths, the shape is `[windows, tokens, hidden_size]`.
        """
        return self.tensors["transformer.wte.weight"][torch.tensor(ids, dtype=torch.int64, device="cpu")]

    def block(self, layer: int, replaced: Mapping[str, Tensor] | None = None) -> Block:
        """A block, with some of its tensors replaced. The keys of `replaced` are full names."""
        prefix, tensors = f"transformer.h.{layer}.", self.tensors | dict(replaced or {})
        return Block(self.config, {name.removeprefix(prefix): each for name, each in tensors.items() if prefix in name})

    def head(self, hidden: Tensor) -> Tensor:
        """The logits `[tokens, vocab_size]` from the states after the last block."""
        return F.linear(self.normed(hidden), self.tensors["lm_head.weight"], self.tensors["lm_head.bias"])

    def normed(self, hidden: Tensor) -> Tensor:
        """The input of the head, from the states after the last block."""
        norm = self.tensors["transformer.ln_f.weight"], self.tensors["transformer.ln_f.bias"]
        return F.layer_norm(hidden, norm[0].shape, *norm, self.config.layer_norm_epsilon)

    def logits(self, ids: Sequence[int], replaced: Mapping[str, Tensor] | None = None) -> Tensor:
        """The logits after every token of one window."""
        return self.head(self.states(ids, replaced)[-1])

    def states(
        self, ids: Sequence[int] | Sequence[Sequence[int]], replaced: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """The hidden states after every block; each tensor has the same shape as the result of `embedded`."""
        found = [self.embedded(ids)]
        for layer in range(self.config.num_layers):
            found.append(self.block(layer, replaced).forward(found[-1]))
        return found[1:]
