"""The transformer block that the quantizers use computes the same as the engine's."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.compress.block import Block
from tests.compress.directories import CONFIG, dense_directory


def test_blocks_after_each_other_are_the_model(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(dense_directory(tmp_path / "model"))
    tensors = {name: checkpoint.read(name, dtype=torch.float32) for name in checkpoint.tensor_names()}
    ids = torch.arange(40) * 7 % CONFIG.vocab_size
    hidden = tensors["transformer.wte.weight"][ids]
    for index in range(CONFIG.num_layers):
        prefix = f"transformer.h.{index}."
        block = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        hidden = Block(CONFIG, block).forward(hidden)
    norm = tensors["transformer.ln_f.weight"], tensors["transformer.ln_f.bias"]
    hidden = F.layer_norm(hidden, (CONFIG.hidden_size,), *norm, CONFIG.layer_norm_epsilon)
    logits = F.linear(hidden, tensors["lm_head.weight"], tensors["lm_head.bias"])
    with labkit.load(tmp_path / "model", device="cpu", dtype="fp32") as engine:
        assert torch.allclose(engine.logits(ids.tolist()), logits, atol=1e-4)
