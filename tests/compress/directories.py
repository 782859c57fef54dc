"""Small directories for the tests of labkit.compress."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from labkit.checkpoints import expected_shapes, open_checkpoint
from labkit.config import GPTJConfig

CONFIG = GPTJConfig(
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    rotary_dim=16,
    context_length=48,
    vocab_size=97,
    bos_token_id=0,
    eos_token_id=0,
)


def short_directory(path: Path, layers: int = 3) -> Path:
    """The first layers of gptj-tiny and its tokenizer, in Hugging Face's layout: a small model with the inputs of real text."""
    checkpoint = open_checkpoint("gptj-tiny")
    config = replace(checkpoint.config, num_layers=layers)
    path.mkdir()
    save_file({name: checkpoint.read(name) for name in expected_shapes(config)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    shutil.copy(checkpoint.path / "tokenizer.json", path)
    return path


def dense_directory(path: Path, dtype: torch.dtype = torch.float16) -> Path:
    """A random GPT-J without a tokenizer, in Hugging Face's layout."""
    path.mkdir()
    chooser = torch.Generator().manual_seed(3)
    tensors = {
        name: (torch.randn(shape, generator=chooser) * (0.02 if len(shape) == 1 else shape[-1] ** -0.5)).to(dtype)
        for name, shape in expected_shapes(CONFIG).items()
    }
    for name in tensors:
        if name.endswith(("ln_1.weight", "ln_f.weight")):
            tensors[name] = tensors[name] + 1
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    return path
