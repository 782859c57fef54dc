"""Folders with random GPT-J models of uneven sizes, and comparisons, for tests of the formats of other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from labkit.checkpoints import Checkpoint, expected_shapes
from labkit.config import GPTJConfig

CONFIG = GPTJConfig(
    hidden_size=48,
    num_layers=4,
    num_heads=4,
    rotary_dim=6,
    context_length=37,
    vocab_size=211,
    intermediate_size=88,
    layer_norm_epsilon=3e-5,
    bos_token_id=3,
    eos_token_id=7,
)
"""The vocabulary size is a prime number, and the inner size is not four times the hidden size."""


def random_weights(config: GPTJConfig, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random weights that are all different, and with which the model's output changes from token to token."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in expected_shapes(config).items():
        scale = 1.2 * shape[1] ** -0.5 if len(shape) == 2 and "wte" not in name else 0.5
        tensor = torch.randn(shape, generator=generator) * scale
        weights[name] = (tensor + 1 if name.endswith(("ln_1.weight", "ln_f.weight")) else tensor).to(dtype)
    return weights


def write_source(folder: Path, seed: int, dtype: torch.dtype = torch.float32, config: GPTJConfig = CONFIG) -> dict[str, Tensor]:
    """Write a Hugging Face folder of random weights; return the weights."""
    import json

    folder.mkdir(parents=True)
    weights = random_weights(config, seed, dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return weights


def same(checkpoint: Checkpoint, weights: dict[str, Tensor]) -> None:
    """Check that every tensor has the dtype and the bits of `weights`, also when only some rows, columns or both are read."""
    for name, expected in weights.items():
        assert expected.float().std() > 0
        found = checkpoint.read(name)
        assert found.dtype == expected.dtype, name
        assert torch.equal(found, expected), name
        rows = slice(expected.shape[0] // 3, 2 * expected.shape[0] // 3 + 1)
        assert torch.equal(checkpoint.read(name, rows=rows), expected[rows]), name
        assert torch.equal(checkpoint.read(name, rows=slice(-1, None), dtype=torch.float64), expected[-1:].double()), name
        if expected.dim() == 2:
            columns = slice(expected.shape[1] // 5, -3)
            assert torch.equal(checkpoint.read(name, columns=columns), expected[:, columns]), name
            assert torch.equal(checkpoint.read(name, rows=rows, columns=columns), expected[rows, columns]), name


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of every file in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load_all(folder: Path) -> dict[str, Any]:
    """The tensors of all safetensors files of a folder."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
