"""Pruning without the 2:4 pattern: single weights (unstructured), attention heads and MLP neurons (structured).

Unstructured masks keep the most quality at a given density, but no processor multiplies them faster than a dense matrix at the
densities that language models bear. Without whole heads or neurons, a matrix is smaller and dense, and faster everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.compress.block import Block
from labkit.errors import InvalidRequest


def unstructured_mask(scores: Tensor, density: float, *, per_row: bool = False) -> Tensor:
    """Keep the share `density` of the numbers of `scores` `[out, in]`, the largest ones: of the matrix, or of each row.

    Returns a bool mask; True is kept. The number of kept weights is rounded to a whole number, and of equal scores the first
    one is kept. `magnitude_scores` and `wanda_scores` are scores; Wanda compares the weights of one row (`per_row`).
    Raises `InvalidRequest` for a density that is not from 0 to 1.
    """
    if not 0 <= density <= 1:
        raise InvalidRequest(f"density is {density!r}; the share of weights that are kept is accepted, from 0 to 1")
    rows = scores if per_row else scores.reshape(1, -1)
    order = torch.argsort(rows, dim=1, descending=True, stable=True)[:, : round(density * rows.shape[1])]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True).view(scores.shape)


def head_scores(block: Block) -> Tensor:
    """The norm of what each attention head can add to the output: |rows of v| times |columns of out_proj|, `[heads]`.

    The Frobenius norms of both parts, multiplied: a bound for the norm of the head's map from averaged inputs to its output.
    """
    heads, dim = block.config.num_heads, block.config.head_dim
    value = block.tensors["attn.v_proj.weight"].view(heads, -1)
    out = block.tensors["attn.out_proj.weight"].view(-1, heads, dim)
    norms: Tensor = torch.linalg.vector_norm(value, dim=1) * torch.linalg.vector_norm(out, dim=(0, 2))
    return norms


def without_heads(block: Block, heads: Sequence[int]) -> Block:
    """The block with some heads silenced: their rows of q, k and v and their columns of out_proj are 0.

    Shapes stay, because a GPT-J's config.json has as many heads as fit into hidden_size. Raises `InvalidRequest` for a head
    that does not exist.
    """
    count, dim = block.config.num_heads, block.config.head_dim
    kept = torch.ones(count, dtype=torch.bool, device="cpu")
    for head in heads:
        if not 0 <= head < count:
            raise InvalidRequest(f"head {head} does not exist; the block has heads 0 to {count - 1}")
        kept[head] = False
    rows, tensors = kept.repeat_interleave(dim), dict(block.tensors)
    for name in ("q", "k", "v"):
        tensors[f"attn.{name}_proj.weight"] = tensors[f"attn.{name}_proj.weight"] * rows[:, None]
    tensors["attn.out_proj.weight"] = tensors["attn.out_proj.weight"] * rows
    return Block(block.config, tensors)


def neuron_scores(block: Block) -> Tensor:
    """The norm of each MLP neuron's weights: |row of fc_in| times |column of fc_out|, `[intermediate_size]`."""
    fc_in, fc_out = block.tensors["mlp.fc_in.weight"], block.tensors["mlp.fc_out.weight"]
    norms: Tensor = torch.linalg.vector_norm(fc_in, dim=1) * torch.linalg.vector_norm(fc_out, dim=0)
    return norms


def with_neurons(block: Block, kept: Tensor) -> Block:
    """The block with only some MLP neurons: a smaller fc_in and fc_out, and a config with their number as intermediate_size.

    `kept` are indices of neurons, `[count]` int64; what the block computes does not depend on their order. Raises
    `InvalidRequest` if a neuron does not exist, is named twice, or none is kept.
    """
    count = block.config.intermediate_size
    if not len(kept) or len(set(kept.tolist())) != len(kept) or not bool(((kept >= 0) & (kept < count)).all()):
        raise InvalidRequest(f"the neurons to keep must be different numbers from 0 to {count - 1}, and at least one")
    tensors = dict(block.tensors)
    tensors["mlp.fc_in.weight"] = tensors["mlp.fc_in.weight"][kept].contiguous()
    tensors["mlp.fc_in.bias"] = tensors["mlp.fc_in.bias"][kept].contiguous()
    tensors["mlp.fc_out.weight"] = tensors["mlp.fc_out.weight"][:, kept].contiguous()
    return Block(dataclasses.replace(block.config, intermediate_size=len(kept)), tensors)
