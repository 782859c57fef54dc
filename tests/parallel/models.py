"""A GPT-J that can be cut in every way, as a directory on disk, since ranks read their parts from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

CONTEXT = 96


def save_peer(path: Path, *, layers: int = 5, seed: int = 3) -> Any:
    """Random weights, odd in every size that may be: 4 heads of 24, 5 layers, 211 tokens; transformers' model of them."""
    config = transformers.GPTJConfig(
        vocab_size=211,
        n_positions=CONTEXT,
        n_embd=96,
        n_layer=layers,
        n_head=4,
        rotary_dim=8,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    peer = transformers.GPTJForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 1.2 * parameter.shape[1] ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    peer.save_pretrained(path)
    return peer
