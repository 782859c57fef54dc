"""Prunes without the 2:4 pattern: removes single weights (unstructured), or attention heads and MLP neurons (structured).

At a given density, unstructured masks keep the most quality. But at the densities at which language models still work, no
processor multiplies such a matrix faster than a dense one. Removing whole heads or neurons leaves smaller dense matrices, which
are faster on every processor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.compress.block import Block
from labkit.errors import InvalidRequest


def unstructured_mask(scores: Tensor, density: float, *, per_row: bool = False) -> Tensor:
    """Keep the largest numbers of `scores` `[out, in]`: the share `density` of the whole matrix, or of each row.

    Returns a bool mask; True means kept. The number of kept weights is rounded to a whole number. Among equal scores, the first
    one is kept. Scores come, for example, from `magnitude_scores` or `wanda_scores`; Wanda compares only the weights of one row
    (`per_row`). Raises `InvalidRequest` for a density that is not from 0 to 1.
    """
    if not 0 <= density <= 1:
        raise InvalidRequest(f"density is {density!r}; the share of weights to keep, a number from 0 to 1, is accepted")
    rows = scores if per_row else scores.reshape(1, -1)
    order = torch.argsort(rows, dim=1, descending=True, stable=True)[:, : round(density * rows.shape[1])]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True).view(scores.shape)


def head_scores(block: Block) -> Tensor:
    """Return a score for each attention head, `[heads]`: |its rows of v_proj| times |its columns of out_proj|.

    The score says how much the head can add to the output.

    The product of the two Frobenius norms is an upper bound on the norm of the head's map from averaged inputs to outputs.
    """
    heads, dim = block.config.num_heads, block.config.head_dim
    value = block.tensors["attn.v_proj.weight"].view(heads, -1)
    out = block.tensors["attn.out_proj.weight"].view(-1, heads, dim)
    norms: Tensor = torch.linalg.vector_norm(value, dim=1) * torch.linalg.vector_norm(out, dim=(0, 2))
    return norms


def without_heads(block: Block, heads: Sequence[int]) -> Block:
    """Remove the effect of some heads: set their rows of q, k and v and their columns of out_proj to 0.

    The shapes do not change, because in a GPT-J's config.json num_heads times head_dim is always hidden_size. Raises
    `InvalidRequest` for a head that does not exist.
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
    """Return a score for each MLP neuron, `[intermediate_size]`: |its row of fc_in| times |its column of fc_out|."""
    fc_in, fc_out = block.tensors["mlp.fc_in.weight"], block.tensors["mlp.fc_out.weight"]
    norms: Tensor = torch.linalg.vector_norm(fc_in, dim=1) * torch.linalg.vector_norm(fc_out, dim=0)
    return norms


def with_neurons(block: Block, kept: Tensor) -> Block:
    """Keep only some MLP neurons of a block: fc_in, fc_out and the config's intermediate_size become smaller.

    `kept` are indices of neurons, `[count]` int64; the block's output does not depend on their order. Raises `InvalidRequest`
    if a neuron does not exist or is named twice, or if no neuron is kept.
    """
    count = block.config.intermediate_size
    if not len(kept) or len(set(kept.tolist())) != len(kept) or not bool(((kept >= 0) & (kept < count)).all()):
        raise InvalidRequest(f"the neurons to keep must be different numbers from 0 to {count - 1}, and at least one")
    tensors = dict(block.tensors)
    tensors["mlp.fc_in.weight"] = tensors["mlp.fc_in.weight"][kept].contiguous()
    tensors["mlp.fc_in.bias"] = tensors["mlp.fc_in.bias"][kept].contiguous()
    tensors["mlp.fc_out.weight"] = tensors["mlp.fc_out.weight"][:, kept].contiguous()
    return Block(dataclasses.replace(block.config, intermediate_size=len(kept)), tensors)
