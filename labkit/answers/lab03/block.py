"""The answers to exercises 3.3 and 3.4: references, comparisons and known mistakes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.block import PARALLEL_BLOCK, SHARD_LAYER
from labkit.exercises.lab03.on_ranks import BY_RANK
from labkit.exercises.lab03.small_gptj import BY_COLUMNS, BY_ROWS, Layer, attend, gelu, stretch, whole_block


# 3.3 ------------------------------------------------------------------------------------------------------------------
def shard_layer(layer: Layer, rank: int, ranks: int) -> Layer:
    """The reference solution of exercise 3.3."""
    return small_gptj.cut(layer, rank, ranks)


def _by_rows(layer: Layer, rank: int, ranks: int, names: tuple[str, ...], first_bias: bool = True) -> Layer:
    """Make a rank's shard: the tensors `names` are cut by rows, those in `BY_COLUMNS` by columns, and all others are whole."""
    shard = dict(layer)
    for name in names:
        held = stretch(len(layer[name]), rank, ranks)
        shard[name] = layer[name][held]
    for name in BY_COLUMNS:
        held = stretch(layer[name].shape[1], rank, ranks)
        shard[name] = layer[name][:, held]
    if first_bias and rank:
        shard["fc_out_bias"] = torch.zeros_like(layer["fc_out_bias"])
    return shard


def _bias_everywhere(layer: Layer, rank: int, ranks: int) -> Layer:
    return _by_rows(layer, rank, ranks, BY_ROWS, first_bias=False)


def _bias_shared(layer: Layer, rank: int, ranks: int) -> Layer:
    held = stretch(len(layer["fc_out_bias"]), rank, ranks)
    return _by_rows(layer, rank, ranks, BY_ROWS) | {"fc_out_bias": layer["fc_out_bias"][held]}


def _bias_divided(layer: Layer, rank: int, ranks: int) -> Layer:
    return _by_rows(layer, rank, ranks, BY_ROWS) | {"fc_out_bias": layer["fc_out_bias"] / ranks}


def _whole_inner_bias(layer: Layer, rank: int, ranks: int) -> Layer:
    return _by_rows(layer, rank, ranks, tuple(name for name in BY_ROWS if name != "fc_in_bias"))


def _all_by_rows(layer: Layer, rank: int, ranks: int) -> Layer:
    shard = _by_rows(layer, rank, ranks, BY_ROWS)
    for name in BY_COLUMNS:
        held = stretch(len(layer[name]), rank, ranks)
        shard[name] = layer[name][held]
    return shard


def _everything_by_rows(layer: Layer, rank: int, ranks: int) -> Layer:
    found = {}
    for name, tensor in layer.items():
        held = stretch(len(tensor), rank, ranks)
        found[name] = tensor[held]
    return found


def _within_heads(layer: Layer, rank: int, ranks: int) -> Layer:
    shard = _by_rows(layer, rank, ranks, BY_ROWS)
    for name in ("query", "key", "value"):
        shard[name] = layer[name][rank::ranks]
    return shard | {"out": layer["out"][:, rank::ranks]}


SHARD_LAYER_ANSWER = Answer(
    exercise=SHARD_LAYER,
    reference=shard_layer,
    comparison=Comparison(),
    names=BY_RANK,
    mistakes=(
        Mistake(
            "`fc_out_bias` is whole on every rank, so the sum contains it once for each rank: use zeros on all ranks but rank "
            "0.",
            _bias_everywhere,
        ),
        Mistake(
            "You cut `fc_out_bias`, but each rank's part of the output is `[tokens, hidden]`: use the whole bias on rank 0 "
            "and zeros elsewhere.",
            _bias_shared,
        ),
        Mistake(
            "You divide the bias by the number of ranks. The sum is right, but you should use the whole bias on rank "
            "0 and zeros "
            "elsewhere.",
            _bias_divided,
        ),
        Mistake(
            "`fc_in_bias` has one number for each inner feature: cut it as you cut the rows of `fc_in`.", _whole_inner_bias
        ),
        Mistake("`out` and `fc_out` read the features that a rank holds: cut them by columns, not by rows.", _all_by_rows),
        Mistake(
            "You cut everything by rows. `out` and `fc_out` read the features that a rank holds: cut their columns. "
            "`fc_out_bias` is whole on rank 0.",
            _everything_by_rows,
        ),
        Mistake(
            "You take every n-th row, so each rank gets a piece of every head. Attention needs whole heads: take neighbouring "
            "rows.",
            _within_heads,
        ),
    ),
)


# 3.4 ------------------------------------------------------------------------------------------------------------------
def parallel_block(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    """The reference solution of exercise 3.4."""
    part = whole_block(normed, shard, head_dim)
    dist.all_reduce(part)
    return part


def _unsummed(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    return whole_block(normed, shard, head_dim)


def _attention(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    return attend(normed @ shard["query"].T, normed @ shard["key"].T, normed @ shard["value"].T, head_dim) @ shard["out"].T


def _mlp(normed: Tensor, shard: Layer) -> Tensor:
    return F.linear(gelu(F.linear(normed, shard["fc_in"], shard["fc_in_bias"])), shard["fc_out"], shard["fc_out_bias"])


def _attention_only_summed(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    attention = _attention(normed, shard, head_dim)
    dist.all_reduce(attention)
    return attention + _mlp(normed, shard)


def _one_after_the_other(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    attention = _attention(normed, shard, head_dim)
    dist.all_reduce(attention)
    mlp = _mlp(attention + normed, shard)
    dist.all_reduce(mlp)
    return attention + mlp


def _after_its_part(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    attention = _attention(normed, shard, head_dim)
    part = attention + _mlp(attention + normed, shard)
    dist.all_reduce(part)
    return part


def _after_attention_alone(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    attention = _attention(normed, shard, head_dim)
    part = attention + _mlp(attention, shard)
    dist.all_reduce(part)
    return part


def _other_gelu(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    inner = F.gelu(F.linear(normed, shard["fc_in"], shard["fc_in_bias"]))
    part = _attention(normed, shard, head_dim) + F.linear(inner, shard["fc_out"], shard["fc_out_bias"])
    dist.all_reduce(part)
    return part


def _sum_before_gelu(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    inner = F.linear(normed, shard["fc_in"], shard["fc_in_bias"])
    dist.all_reduce(inner)
    part = _attention(normed, shard, head_dim) + F.linear(gelu(inner), shard["fc_out"], shard["fc_out_bias"])
    dist.all_reduce(part)
    return part


def _with_residual(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    part = normed + whole_block(normed, shard, head_dim)
    dist.all_reduce(part)
    return part


def _bias_after(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    part = whole_block(normed, shard, head_dim) - shard["fc_out_bias"]
    dist.all_reduce(part)
    return part + shard["fc_out_bias"]


def _residual_after(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    return normed + parallel_block(normed, shard, head_dim)


def _all_heads(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    width = len(shard["query"])
    query, key, value = (normed @ shard[name].T for name in ("query", "key", "value"))
    part = attend(query, key, value, width) @ shard["out"].T + _mlp(normed, shard)
    dist.all_reduce(part)
    return part


PARALLEL_BLOCK_ANSWER = Answer(
    exercise=PARALLEL_BLOCK,
    reference=parallel_block,
    comparison=Comparison(),
    names=BY_RANK,
    mistakes=(
        Mistake("Your ranks return different parts: the sum over the ranks is missing.", _unsummed),
        Mistake(
            "You sum attention over the ranks, but not the MLP: add attention and MLP on each rank, then call all_reduce once.",
            _attention_only_summed,
        ),
        Mistake(
            "Your MLP reads the result of attention, but in GPT-J attention and MLP read the same normed input.",
            _one_after_the_other,
        ),
        Mistake("Your MLP reads this rank's part of attention, but in GPT-J it reads only `normed`.", _after_its_part),
        Mistake(
            "Your MLP reads the output of attention, but in GPT-J it reads `normed`, as attention does.", _after_attention_alone
        ),
        Mistake("GPT-J uses the tanh form of GELU: call the given function `gelu`.", _other_gelu),
        Mistake(
            "You sum the inner features of the MLP over the ranks, but each rank has different features: sum after fc_out.",
            _sum_before_gelu,
        ),
        Mistake(
            "Every rank adds the input, so your sum contains the input once for each rank. The caller adds the residual; "
            "leave it out.",
            _with_residual,
        ),
        Mistake("You add the residual to the sum, but the caller does that. Return only the sum.", _residual_after),
        Mistake(
            "You add `fc_out_bias` after the all-reduce, but only rank 0 has this bias: add it with the MLP, before the "
            "all-reduce.",
            _bias_after,
        ),
        Mistake(
            "You pass all heads to attend as one wide head: the last argument of attend must be the size of one head.",
            _all_heads,
        ),
    ),
)

ANSWERS = (SHARD_LAYER_ANSWER, PARALLEL_BLOCK_ANSWER)
