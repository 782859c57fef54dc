"""The shapes that have names: labkit's GPT-J models, and the models of the published tables."""

from __future__ import annotations

from labkit.config import GPT_J_6B, GPT_J_405M
from labkit.errors import InvalidRequest
from labkit.planning.shape import Shape

_FT = "https://github.com/NVIDIA/FasterTransformer, docs/gpt_guide.md"
SOURCE = f"{_FT} (350M, 1.3B, 6.7B, 20B, 89B, 175B, 530B); NeMo-Megatron's gpt3 configurations (5B)"
"""Where the shapes of the GPT-3-like models are published."""

SHAPES = {
    shape.name: shape
    for shape in (
        Shape.of_config(GPT_J_405M, "gpt-j-405m"),
        Shape.of_config(GPT_J_6B, "gpt-j-6b"),
        Shape("gpt-350m", 1024, 24, 16),
        Shape("gpt-1.3b", 2048, 24, 32),
        Shape("gpt-5b", 4096, 24, 32),
        Shape("gpt-6.7b", 4096, 32, 32),
        Shape("gpt-20b", 6144, 44, 48),
        Shape("gpt-89b", 12288, 48, 96),
        Shape("gpt-175b", 12288, 96, 96),
        Shape("gpt-530b", 20480, 105, 128),
    )
}
"""Shapes by name."""


def named_shape(name: str) -> Shape:
    """The shape with this name. For an unknown name, raises `InvalidRequest`, which lists the names."""
    if name not in SHAPES:
        raise InvalidRequest(f"there is no shape named {name!r:.60}; the names are {', '.join(SHAPES)}")
    return SHAPES[name]
