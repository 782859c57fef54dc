"""One adapter a peer: how to prefill a batch of prompts and decode on from there, and nothing else.

Another peer is another class with these three methods in `PEERS`; every peer gets equal weights and equal prompts.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.engine import GPTJ, FixedBatches, KVCache
from labkit.errors import NotAvailable


class BenchEngine(ABC):
    """An engine under test. `prefill` starts a new batch, `decode` continues the last one; both are greedy."""

    name: str

    @abstractmethod
    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights of `checkpoint` onto `device` in `dtype`."""

    @abstractmethod
    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run `prompts` `[batch, length]` int64 with room for `new_tokens` and give the first new token `[batch]`."""

    @abstractmethod
    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Feed `tokens` `[batch]` and give the `steps` tokens that follow, `[batch, steps]`."""


class LabkitEngine(BenchEngine):
    """This library's model, driven step by step."""

    name = "labkit"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self._model = GPTJ.from_tensors(checkpoint.config, lambda name: checkpoint.read(name, device=device, dtype=dtype))
        self._cache: KVCache | None = None

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Prompts of equal length, as one flat batch."""
        batch, length = prompts.shape
        model, slots = self._model, batch * (length + new_tokens)
        if self._cache is None or self._cache.num_slots < slots:
            self._cache = KVCache(model.config, slots, device=model.device, dtype=model.dtype)
        self._batches = FixedBatches(batch, length + new_tokens, model.device)
        return model.forward(self._batches.prefill(list(prompts)), self._cache).argmax(-1)

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """One forward pass a step over the preallocated cache."""
        assert self._cache is not None
        made = []
        for _ in range(steps):
            tokens = self._model.forward(self._batches.decode(tokens), self._cache).argmax(-1)
            made.append(tokens)
        return torch.stack(made, dim=1)


class HuggingFaceEngine(BenchEngine):
    """`transformers`' GPT-J in eager mode with its default (growing) cache."""

    name = "hf"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        try:
            import transformers
        except ImportError as error:
            raise NotAvailable("peer hf needs the package transformers; install labkit with its extra 'lab'") from error
        # 5.24 renames the argument to `cache`; every version from 5.0 to 5.39 takes it under this name.
        warnings.filterwarnings("ignore", "`past_key_values`", FutureWarning)
        config = transformers.GPTJConfig(**checkpoint.config.to_dict())
        with torch.device("meta"):
            model: Any = transformers.GPTJForCausalLM(config)
        names = checkpoint.tensor_names()
        weights = {name: checkpoint.read(name, device=device, dtype=dtype) for name in names}
        model.load_state_dict(weights, assign=True)
        positions = transformers.models.gptj.modeling_gptj.create_sinusoidal_positions
        for module in model.modules():
            if hasattr(module, "embed_positions"):
                module.embed_positions = positions(config.max_position_embeddings, config.rotary_dim).to(device)
        self._model = model.eval()
        self._device = device
        self._past: Any = None

    @torch.inference_mode()
    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """One forward pass over the prompts; logits of the last position only, as `generate` asks for."""
        out = self._model(prompts.to(self._device), use_cache=True, logits_to_keep=1)
        self._past = out.past_key_values
        first: Tensor = out.logits[:, -1].argmax(-1)
        return first

    @torch.inference_mode()
    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """One forward pass a step with the cache of the last one."""
        made = []
        for _ in range(steps):
            out = self._model(tokens[:, None], past_key_values=self._past, use_cache=True)
            self._past = out.past_key_values
            tokens = out.logits[:, -1].argmax(-1)
            made.append(tokens)
        return torch.stack(made, dim=1)


PEERS: dict[str, type[BenchEngine]] = {"hf": HuggingFaceEngine}
"""The engines that `--against` can name."""
