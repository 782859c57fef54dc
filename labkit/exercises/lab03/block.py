"""Exercises 3.3 and 3.4: a block of GPT-J is cut by heads and inner features, and one all-reduce adds up the outputs of the
ranks.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import distributed as dist

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.on_ranks import CHECK_SECONDS, Call, RanksCase, exactly, inside, start_ranks, values_of
from labkit.exercises.lab03.small_gptj import Layer
from labkit.launch import Each
from labkit.plurals import counted

SHAPES = ((2, 4, 4, 12), (2, 2, 6, 10), (4, 4, 2, 8))
"""For each case: the number of ranks, the number of heads, the size of a head (head_dim) and the number of inner features."""


# 3.3 ------------------------------------------------------------------------------------------------------------------
def own_shard(shard: Any, layer: Layer) -> Layer:
    """The shard of a layer that the learner's function returns for this rank."""
    found: Layer = shard(layer, dist.get_rank(), dist.get_world_size())
    return found


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
    ends_at_error=True,
    run=inside(own_shard),
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    observe=values_of,
    hints=(
        "For each tensor, ask: do its rows or its columns belong to heads or inner features?",
        "Cut query, key, value, fc_in and fc_in_bias by rows, and out and fc_out by columns. The rows of a rank's heads are "
        "next to each other.",
        "size = len(t) // ranks; t[rank * size : (rank + 1) * size] by rows, t[:, ...] by columns; zeros_like for the bias "
        "where rank > 0.",
    ),
)


# 3.4 ------------------------------------------------------------------------------------------------------------------
def run_block(block: Any, kind: str, *given: Any) -> Any:
    """Run one block on a rank, or generate tokens on the rank with a model that contains this block."""
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
    ends_at_error=True,
    run=inside(run_block),
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    observe=values_of,
    contract=exactly(_one_a_block, "add attention and MLP first, then call all_reduce once for their sum"),
    hints=(
        "A rank needs no other rank to compute its heads up to and including `out`, and its inner features up to and "
        "including `fc_out`.",
        "A rank computes its part of each sum in this way: attention = attend(...) @ shard['out'].T and mlp = "
        "F.linear(gelu(...), shard['fc_out'], shard['fc_out_bias']).",
        "Attention and MLP have the same shape, [tokens, hidden]: add these two tensors first. all_reduce changes its tensor "
        "in place.",
    ),
)
