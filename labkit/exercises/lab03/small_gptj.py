"""A GPT-J that is small enough to be sent to all ranks. It is made of plain tensors and torch functions, and has no cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.checkpoints.split import span

Layer = dict[str, Tensor]

BY_ROWS = ("query", "key", "value", "fc_in", "fc_in_bias")
BY_COLUMNS = ("out", "fc_out")


def make_layer(generator: torch.Generator, hidden: int, inner: int) -> Layer:
    """Make random weights for one block; each weight matrix is `[out, in]`."""

    def weight(rows: int, columns: int) -> Tensor:
        drawn: Tensor = torch.randn(rows, columns, generator=generator)
        return drawn / math.sqrt(columns)

    square = {name: weight(hidden, hidden) for name in ("query", "key", "value", "out")}
    biases = {"fc_in_bias": torch.randn(inner, generator=generator), "fc_out_bias": torch.randn(hidden, generator=generator)}
    return square | {"fc_in": weight(inner, hidden), "fc_out": weight(hidden, inner)} | biases


def make_model(seed: int, *, layers: int, heads: int, head_dim: int, inner: int, vocab: int) -> dict[str, Any]:
    """Make random weights for a model with `layers` blocks."""
    generator = torch.Generator().manual_seed(seed)
    hidden = heads * head_dim
    return {
        "head_dim": head_dim,
        "embedding": torch.randn(vocab, hidden, generator=generator),
        "layers": [make_layer(generator, hidden, inner) for _ in range(layers)],
        "head": torch.randn(vocab, hidden, generator=generator) * hidden**-0.5,
        "head_bias": torch.randn(vocab, generator=generator) * 0.1,
    }


def attend(query: Tensor, key: Tensor, value: Tensor, head_dim: int) -> Tensor:
    """Causal attention with rotary position embedding; query, key and value are `[tokens, heads * head_dim]`."""
    tokens = len(query)
    q, k, v = (part.view(tokens, -1, head_dim).transpose(0, 1) for part in (query, key, value))
    attended = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
    return attended.transpose(0, 1).reshape(tokens, -1)


def turn(x: Tensor) -> Tensor:
    """Rotate `[heads, tokens, head_dim]` by the rotary position embedding.

    Neighbouring numbers form a pair (Su et al. 2021, as in GPT-J).
    """
    tokens, dim = x.shape[1:]
    angles = torch.arange(tokens)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
    sin, cos = angles.sin(), angles.cos()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def gelu(x: Tensor) -> Tensor:
    """GPT-J's activation: GELU in its tanh form."""
    return F.gelu(x, approximate="tanh")


def whole_block(normed: Tensor, layer: Layer, head_dim: int) -> Tensor:
    """The sum of a block's attention and MLP, computed in one process. The caller adds this sum to the residual."""
    attended = attend(normed @ layer["query"].T, normed @ layer["key"].T, normed @ layer["value"].T, head_dim)
    inner = gelu(F.linear(normed, layer["fc_in"], layer["fc_in_bias"]))
    return attended @ layer["out"].T + F.linear(inner, layer["fc_out"], layer["fc_out_bias"])


def cut(layer: Layer, rank: int, ranks: int) -> Layer:
    """The shard of a layer for one rank.

    `fc_out_bias` is zero on all ranks except the first, because the sum over the ranks must contain it once.
    """
    shard = {name: tensor[stretch(len(tensor), rank, ranks)] for name, tensor in layer.items() if name in BY_ROWS}
    shard |= {name: layer[name][:, stretch(layer[name].shape[1], rank, ranks)] for name in BY_COLUMNS}
    return {name: tensor.contiguous() for name, tensor in shard.items()} | {
        "fc_out_bias": layer["fc_out_bias"] if rank == 0 else torch.zeros_like(layer["fc_out_bias"])
    }


def stretch(count: int, rank: int, ranks: int) -> slice:
    """The slice of `count` indices that belongs to one rank.

    If `count` cannot be divided evenly, each of the first ranks gets one index more.
    """
    held = span(count, rank, ranks)
    return slice(held.start, held.stop)


def cut_model(model: dict[str, Any], rank: int, ranks: int) -> dict[str, Any]:
    """The shard of a model for one rank. Layers and head are cut; the embedding stays whole."""
    held = stretch(len(model["head"]), rank, ranks)
    return model | {
        "layers": [cut(layer, rank, ranks) for layer in model["layers"]],
        "head": model["head"][held].contiguous(),
        "head_bias": model["head_bias"][held].contiguous(),
        "first": held.start,
    }


def greedy(
    model: dict[str, Any],
    prompt: list[int],
    new_tokens: int,
    block: Callable[[Tensor, Layer, int], Tensor] = whole_block,
    argmax: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None,
) -> list[int]:
    """Generate greedy tokens after a prompt.

    `block` computes each block, and `argmax` finds the best token for each row of `[rows, hidden]`.
    """
    tokens = list(prompt)
    for _ in range(new_tokens):
        hidden = model["embedding"][torch.tensor(tokens)]
        for layer in model["layers"]:
            hidden = hidden + block(norm(hidden), layer, model["head_dim"])
        last = norm(hidden[-1:])
        if argmax is None:
            best = F.linear(last, model["head"], model["head_bias"]).argmax(-1)
        else:
            best = argmax(last, model["head"], model["head_bias"], model["first"])
        tokens.append(int(best))
    return tokens[len(prompt) :]


def norm(x: Tensor) -> Tensor:
    """A layer norm with weight 1 and bias 0."""
    return F.layer_norm(x, x.shape[-1:])
