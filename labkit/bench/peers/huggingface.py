"""Peer `hf`: the GPT-J of Hugging Face transformers, as most people run it. Other peers use the same model."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.checkpoints import Checkpoint
from labkit.precision import DTYPES


def transformers_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """Make a `GPTJForCausalLM` with the checkpoint's weights.

    The model is built on the device "meta", which allocates no memory. Then its tensors are read one by one.
    """
    import transformers

    config = transformers.GPTJConfig(**checkpoint.config.to_dict())
    with torch.device("meta"):
        model: Any = transformers.GPTJForCausalLM(config)
    names = checkpoint.tensor_names()
    model.load_state_dict({name: checkpoint.read(name, device=device, dtype=dtype) for name in names}, assign=True)
    positions = transformers.models.gptj.modeling_gptj.create_sinusoidal_positions
    for module in model.modules():
        if hasattr(module, "embed_positions"):  # this tensor is computed, not loaded, so it is still on meta
            module.embed_positions = positions(config.max_position_embeddings, config.rotary_dim).to(device)
    return model.eval()


def cache_argument(model: Any) -> str:
    """The name of the cache argument of `forward` in the installed transformers: `past_key_values`, or `cache` from 5.24 on."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class HuggingFaceEngine(BenchEngine):
    """The GPT-J of `transformers` in eager mode, with the default attention and the default (growing) cache."""

    name = "hf"
    packages = ("transformers",)
    extra = "lab"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        self._model = transformers_model(checkpoint, device, DTYPES[precision])
        self._device = device
        self._cache_name = cache_argument(self._model)
        self._past: Any = None
        attention = self._model.config._attn_implementation
        self.detail = f"weights, activations and KV cache {precision}; eager, attention {attention}, growing cache"

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """Only the floating-point precisions."""
        return ("fp32", "bf16", "fp16")

    def _forward(self, tokens: Tensor, past: Any) -> Tensor:
        out = self._model(tokens, use_cache=True, logits_to_keep=1, **{self._cache_name: past})
        self._past = out[self._cache_name]
        best: Tensor = out.logits[:, -1].argmax(-1)
        return best

    @torch.inference_mode()
    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run one forward pass over the prompts, and compute only the logits of the last position, as `generate` does."""
        return self._forward(prompts.to(self._device), None)

    @torch.inference_mode()
    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run one forward pass per step. Each step continues with the cache of the previous step."""
        made = []
        for _ in range(steps):
            tokens = self._forward(tokens[:, None], self._past)
            made.append(tokens)
        return torch.stack(made, dim=1)
