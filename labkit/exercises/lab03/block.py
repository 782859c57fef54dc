"""Exercises 3.3 and 3.4: a block of GPT-J is cut by heads and inner features, and one all-reduce puts its output together
again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.on_ranks import BY_RANK, CHECK_SECONDS, Call, RanksCase, exactly, inside, start_ranks, values_of
from labkit.exercises.lab03.small_gptj import BY_COLUMNS, BY_ROWS, Layer, attend, gelu, stretch, whole_block
from labkit.launch import Each
from labkit.plurals import counted

SHAPES = ((2, 4, 4, 12), (2, 2, 6, 10), (4, 4, 2, 8))
"""For each case: the number of ranks, the number of heads, the size of a head (head_dim) and the number of inner features."""


# 3.3 ------------------------------------------------------------------------------------------------------------------
def shard_layer(layer: Layer, rank: int, ranks: int) -> Layer:
    """The reference of exercise 3.3."""
    return small_gptj.cut(layer, rank, ranks)


def own_shard(shard: Any, layer: Layer) -> Layer:
    """The shard of a layer that the learner's function returns for this rank."""
    found: Layer = shard(layer, dist.get_rank(), dist.get_world_size())
    return found


def _by_rows(layer: Layer, rank: int, ranks: int, names: tuple[str, ...], first_bias: bool = True) -> Layer:
    """A shard in which the tensors `names` are cut by rows and `BY_COLUMNS` are cut by columns; all others are whole."""
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


def _shard_cases(seed: int) -> list[Case]:
    cases: list[Case] = []
    for number, (ranks, heads, head_dim, inner) in enumerate((*SHAPES, (1, 2, 4, 16))):
        generator = torch.Generator().manual_seed(10 * seed + number)
        layer = small_gptj.make_layer(generator, heads * head_dim, inner)
        cases.append(RanksCase(_label(ranks, heads, head_dim, inner), (layer,), ranks=ranks))
    return cases


def _label(ranks: int, heads: int, head_dim: int, inner: int) -> str:
    return f"{counted(ranks, 'rank')}, {counted(heads, 'head')} of {head_dim}, {inner} inner features"


SHARD_LAYER = Exercise(
    name="lab03.shard_layer",
    lab="03",
    number="3.3",
    title="Cut a layer by its heads",
    function="shard_layer",
    statement=(
        "Cut a GPT-J block so that each rank computes some heads and some inner features from beginning to end. "
        "Return the shard of `layer` for `rank`: a dictionary with the same names. `query`, `key`, `value [hidden, hidden]` "
        "(one head after the other), `fc_in [inner, hidden]` and `fc_in_bias` compute a rank's own features, and `out [hidden, "
        "hidden]` and `fc_out [hidden, inner]` read these features. The results of all ranks are then added up, so "
        "`fc_out_bias` must be whole on rank 0 and zeros on all other ranks."
    ),
    points=10,
    minutes=20,
    difficulty=2,
    cases=_shard_cases,
    reference=shard_layer,
    ends_at_error=True,
    run=inside(own_shard),
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    observe=values_of,
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
            "You divide the bias by the number of ranks. The sum is right, but use the whole bias on rank 0 and zeros "
            "elsewhere.",
            _bias_divided,
        ),
        Mistake(
            "`fc_in_bias` has one number for each inner feature: cut it as you cut the rows of `fc_in`.", _whole_inner_bias
        ),
        Mistake("`out` and `fc_out` read the features that a rank has: cut them by columns, not by rows.", _all_by_rows),
        Mistake(
            "You cut everything by rows. `out` and `fc_out` read the features that a rank has: cut their columns. "
            "`fc_out_bias` is whole on rank 0.",
            _everything_by_rows,
        ),
        Mistake(
            "You take every n-th row, so each rank gets a piece of every head. Attention needs whole heads: take neighbouring "
            "rows.",
            _within_heads,
        ),
    ),
    hints=(
        "For each tensor, ask: do its rows or its columns belong to heads or inner features?",
        "Cut query, key, value, fc_in and fc_in_bias by rows, and out and fc_out by columns. The rows of a rank's heads are "
        "next to each other.",
        "size = len(t) // ranks; t[rank * size : (rank + 1) * size] by rows, t[:, ...] by columns; zeros_like for the bias "
        "where rank > 0.",
    ),
)


# 3.4 ------------------------------------------------------------------------------------------------------------------
def parallel_block(normed: Tensor, shard: Layer, head_dim: int) -> Tensor:
    """The reference of exercise 3.4."""
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


def run_block(block: Any, kind: str, *given: Any) -> Any:
    """Run one block on the ranks, or generate tokens with a model that contains this block."""
    if kind == "tokens":
        model, prompt, new_tokens = given
        return small_gptj.greedy(model, prompt, new_tokens, block=block)
    return block(*given)


def _block_cases(seed: int) -> list[Case]:
    cases: list[Case] = []
    for number, (ranks, heads, head_dim, inner) in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(20 * seed + number)
        layer = small_gptj.make_layer(generator, heads * head_dim, inner)
        x = torch.randn(5 - number, heads * head_dim, generator=generator)
        shards = Each([small_gptj.cut(layer, rank, ranks) for rank in range(ranks)])
        cases.append(RanksCase(_label(ranks, heads, head_dim, inner), ("block", x, shards, head_dim), ranks=ranks))
    model = small_gptj.make_model(seed, layers=3, heads=4, head_dim=4, inner=32, vocab=50)
    prompt = torch.randint(50, (5,), generator=torch.Generator().manual_seed(seed)).tolist()
    for ranks in (2, 4):
        layers = [[small_gptj.cut(layer, rank, ranks) for layer in model["layers"]] for rank in range(ranks)]
        models = Each([model | {"layers": shards} for shards in layers])
        label = f"greedy tokens of a GPT-J of 3 layers on {ranks} ranks"
        cases.append(RanksCase(label, ("tokens", models, prompt, 4), ranks=ranks))
    return cases


def _one_a_block(case: RanksCase, rank: int) -> Counter[Call]:
    if case.args[0] == "block":
        return Counter({("all_reduce", tuple(case.args[1].shape)): 1})
    models, prompt, new_tokens = case.args[1:]
    hidden = models.values[0]["embedding"].shape[1]
    layers = len(models.values[0]["layers"])
    return Counter({("all_reduce", (len(prompt) + step, hidden)): layers for step in range(new_tokens)})


PARALLEL_BLOCK = Exercise(
    name="lab03.parallel_block",
    lab="03",
    number="3.4",
    title="Place the all-reduce",
    function="parallel_block",
    statement=(
        "Compute a block with this rank's `shard` (from 3.3). Return, on every rank, the sum of attention and MLP over all "
        "ranks, `[tokens, hidden]`, without the residual. `attend(query, key, value, head_dim)` computes attention for the "
        "heads that you pass; `gelu(x)` is the activation. Other models compute the MLP from the result of attention, so they "
        "need two all-reduces in each layer. GPT-J computes both from the same `normed`, so use only a **single** all-reduce. "
        "In one case of the check, a model with your block generates text."
    ),
    points=15,
    minutes=20,
    difficulty=3,
    cases=_block_cases,
    reference=parallel_block,
    ends_at_error=True,
    run=inside(run_block),
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    observe=values_of,
    comparison=Comparison(),
    names=BY_RANK,
    contract=exactly(_one_a_block, "add attention and MLP first, then call all_reduce once for their sum"),
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
        Mistake("GPT-J uses the tanh form of GELU: call the function `gelu` that is passed to you.", _other_gelu),
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
    hints=(
        "A rank needs no other rank to compute its heads up to and including `out`, and its inner features up to and "
        "including `fc_out`.",
        "A rank computes its part of each sum in this way: attention = attend(...) @ shard['out'].T and mlp = "
        "F.linear(gelu(...), shard['fc_out'], shard['fc_out_bias']).",
        "Attention and MLP have the same shape, [tokens, hidden]: add these two tensors first. all_reduce changes its tensor "
        "in place.",
    ),
)
