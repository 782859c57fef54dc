"""Shapes of GPT-J for exercises: the real shape, and random unusual shapes, so that no wrong formula is right by chance."""

from __future__ import annotations

import random
from dataclasses import dataclass

from labkit.config import GPT_J_6B, GPTJConfig


@dataclass(frozen=True)
class Shape:
    """The plain fields of a model's config.

    The computed properties of a real config are left out of this class, because they would answer the exercise.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int


def bare(config: GPTJConfig) -> Shape:
    """The plain fields of a config."""
    return Shape(config.hidden_size, config.num_layers, config.num_heads, config.intermediate_size, config.vocab_size)


def odd_config(draw: random.Random) -> GPTJConfig:
    """A random shape. Its head size is not a power of two, and its MLP is often not four times as wide as the hidden state."""
    heads, head_dim = draw.choice([1, 3, 5, 12]), draw.choice([6, 10, 18, 34])
    hidden = heads * head_dim
    return GPTJConfig(
        hidden_size=hidden,
        num_layers=draw.choice([1, 2, 5, 7]),
        num_heads=heads,
        rotary_dim=draw.choice([2, 4, 6]),
        context_length=draw.choice([33, 100, 2048]),
        vocab_size=draw.choice([59, 1001, 50400]),
        intermediate_size=draw.choice([hidden * 3 + 1, hidden * 5, hidden * 4]),
    )


def some_configs(seed: int) -> list[tuple[str, GPTJConfig]]:
    """GPT-J 6B and four unusual shapes, each with a label."""
    draw = random.Random(seed)
    odd = [odd_config(draw) for _ in range(4)]
    return [
        ("GPT-J 6B", GPT_J_6B),
        *(
            (f"hidden {c.hidden_size}, layers {c.num_layers}, inner {c.intermediate_size}, vocab {c.vocab_size}", c)
            for c in odd
        ),
    ]
