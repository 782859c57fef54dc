"""Random GPT-J models for tests. transformers makes them and labkit runs them, so that the two can be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from labkit.config import GPTJConfig
from labkit.engine import Engine
from labkit.model import GPTJ, Batch, Forward, KVCache
from labkit.model.weight_store import weight_store
from labkit.precision import precision_name

# hidden_size, num_layers, num_heads, rotary_dim, context_length, vocab_size
SHAPES = {
    "rotary below the head": (96, 2, 3, 6, 61, 211),
    "head of 32, rotary of all": (64, 3, 2, 32, 48, 97),
    "head of 256": (512, 1, 2, 64, 40, 130),
    "one head of 80": (80, 2, 1, 20, 33, 59),
}


def random_peer(shape: str | tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """A transformers GPT-J with random weights that are large enough for its output to change from token to token."""
    hidden, layers, heads, rotary_dim, context, vocab = SHAPES[shape] if isinstance(shape, str) else shape
    config = transformers.GPTJConfig(
        vocab_size=vocab,
        n_positions=context,
        n_embd=hidden,
        n_layer=layers,
        n_head=heads,
        rotary_dim=rotary_dim,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    peer = transformers.GPTJForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if parameter.dim() == 2 and "wte" not in name:
                parameter.normal_(0, 1.2 * parameter.shape[1] ** -0.5)
            elif parameter.dim() == 2:
                parameter.normal_(0, 1.0)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return peer.to(dtype)


def engine_of(peer: Any, **options: Any) -> Engine:
    """A labkit engine with the weights and the dtype of a transformers model, stored in the same form as with `labkit.load`."""
    weights = peer.state_dict()
    config = GPTJConfig.from_dict(peer.config.to_dict())
    store = weight_store(precision_name(peer.dtype), peer.device)
    return Engine(GPTJ.from_tensors(config, lambda name: weights[name].detach().clone(), store), **options)


class FunctionForward(Forward):
    """A forward pass that calls a given function with the batch and the cache."""

    def __init__(self, function: Callable[[Batch, KVCache], Tensor]) -> None:
        self._function = function

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        return self._function(batch, cache)


def random_prompts(vocab: int, lengths: list[int], seed: int) -> list[list[int]]:
    """Random prompts of the given lengths, without the end-of-text token."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, vocab, (length,), generator=generator).tolist() for length in lengths]


def peer_greedy(peer: Any, prompt: list[int], new_tokens: int, **options: Any) -> list[int]:
    """The new tokens that transformers generates for a prompt; `options` are passed to its `generate`."""
    made = peer.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens
