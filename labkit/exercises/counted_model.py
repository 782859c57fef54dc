"""A small GPT-J that is called like a model of `transformers` and counts the tokens of each call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.synthetic import SyntheticCheckpoint
from labkit.config import GPTJConfig
from labkit.model import GPTJ, FixedBatches, KVCache

_CONFIG = GPTJConfig(hidden_size=24, num_layers=2, num_heads=2, rotary_dim=6, context_length=64, vocab_size=61)


class CountedModel:
    """A model with random weights from a seed. `fed` has one entry for each call: the number of tokens per sequence that were
    passed to the model.

    The object is called like a Hugging Face model: `model(input_ids, past_key_values=None, use_cache=True)` returns `logits`
    `[batch, fed, vocab_size]` and `past_key_values`. The returned `past_key_values` can only be passed to the next call.
    """

    vocab_size = _CONFIG.vocab_size

    def __init__(self, seed: int) -> None:
        weights = SyntheticCheckpoint(_CONFIG, "counted model", seed)
        self._model = GPTJ.from_tensors(_CONFIG, lambda name: weights.read(name, dtype=torch.float32))
        self.fed: list[int] = []

    def __call__(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = True) -> SimpleNamespace:
        """Run the new tokens `input_ids` `[batch, fed]`, which follow the tokens in `past_key_values`.

        Raises `ValueError` if `input_ids` does not have two dimensions.
        """
        if input_ids.ndim != 2:
            raise ValueError(
                f"the model got input_ids of shape {list(input_ids.shape)}; it takes [batch, tokens], so one token for "
                "each sequence has the shape [batch, 1]"
            )
        self.fed.append(int(input_ids.shape[1]))
        seen: Tensor = input_ids if past_key_values is None else torch.cat((past_key_values, input_ids), dim=1)
        rows = []
        for row in seen:
            cache = KVCache(_CONFIG, len(row), device=row.device, dtype=torch.float32)
            whole = FixedBatches(1, len(row), row.device).prefill([row], all_logits=True)
            rows.append(self._model.forward(whole, cache)[-input_ids.shape[1] :])
        return SimpleNamespace(logits=torch.stack(rows), past_key_values=seen if use_cache else None)
