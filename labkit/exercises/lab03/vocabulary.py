"""Exercise 3.5: the best token of a vocabulary that is shared out, without gathering its logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from labkit.checkpoints.split import span
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.on_ranks import BY_RANK, LedgerContract, RanksCase, inside, of_rank, values_of
from labkit.launch import Each, Launched

BYTES_A_ROW = 16
"""That a rank may give for each row: a value and a token of eight bytes each."""


def sharded_argmax(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    """The reference of exercise 3.5."""
    value, place = F.linear(hidden, head, bias).max(-1)
    mine = torch.stack((value.double(), (place + first).double()))
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    values, tokens = torch.stack(found).unbind(1)
    return tokens.gather(0, values.argmax(0, keepdim=True))[0].long()


def _gathered(hidden: Tensor, head: Tensor, bias: Tensor, first: int, *, best: bool) -> tuple[Tensor, Tensor]:
    """Each rank's best (or worst) value and its token."""
    logits = F.linear(hidden, head, bias)
    value, place = logits.max(-1) if best else logits.min(-1)
    mine = torch.stack((value.double(), (place + first).double()))
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    values, tokens = torch.stack(found).unbind(1)
    return values, tokens.long()


def _own(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    return F.linear(hidden, head, bias).argmax(-1) + first


def _no_first(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    values, tokens = _gathered(hidden, head, bias, 0, best=True)
    return tokens.gather(0, values.argmax(0, keepdim=True))[0]


def _whose(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    return _gathered(hidden, head, bias, first, best=True)[0].argmax(0)


def _largest_token(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    token = _own(hidden, head, bias, first)
    dist.all_reduce(token, dist.ReduceOp.MAX)
    return token


def _no_bias(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    return sharded_argmax(hidden, head, torch.zeros_like(bias), first)


def _last_of_equals(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    values, tokens = _gathered(hidden, head, bias, first, best=True)
    backwards = len(values) - 1 - values.flip(0).argmax(0, keepdim=True)
    return tokens.gather(0, backwards)[0]


def _sum_of_equals(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    value, place = F.linear(hidden, head, bias).max(-1)
    best = value.clone()
    dist.all_reduce(best, dist.ReduceOp.MAX)
    token = torch.where(value == best, place + first, 0)
    dist.all_reduce(token)
    return token


def run_argmax(argmax: Any, kind: str, *given: Any) -> Any:
    """The best tokens of some rows, or a model that generates by them."""
    if kind == "tokens":
        model, prompt, new_tokens = given
        return small_gptj.greedy(model, prompt, new_tokens, argmax=argmax)
    return argmax(*given)


def _cases(seed: int) -> list[Case]:
    cases: list[Case] = []
    generator = torch.Generator().manual_seed(seed)
    for label, ranks, rows, vocab in (("", 2, 1, 60), ("", 3, 6, 101), ("", 4, 9, 203), ("equal logits: ", 2, 4, 40)):
        hidden = torch.randn(rows, 5, generator=generator)
        head, bias = torch.randn(vocab, 5, generator=generator), torch.randn(vocab, generator=generator)
        if label:  # each token of the first half has its like in the second
            head[vocab // 2 :], bias[vocab // 2 :] = head[: vocab // 2], bias[: vocab // 2]
        held = [span(vocab, rank, ranks) for rank in range(ranks)]
        heads = Each([head[part.start : part.stop].contiguous() for part in held])
        biases = Each([bias[part.start : part.stop].contiguous() for part in held])
        firsts = Each([part.start for part in held])
        says = f"{label}{rows} rows, {vocab} tokens over {ranks} ranks"
        cases.append(RanksCase(says, ("rows", hidden, heads, biases, firsts), ranks=ranks))
    model = small_gptj.make_model(seed, layers=2, heads=2, head_dim=4, inner=16, vocab=97)
    models = Each([small_gptj.cut_model(model, rank, 2) | {"layers": model["layers"]} for rank in range(2)])
    prompt = torch.randint(97, (4,), generator=generator).tolist()
    cases.append(RanksCase("greedy tokens of a GPT-J of 2 layers on 2 ranks", ("tokens", models, prompt, 6), ranks=2))
    return cases


def _few_bytes(case: RanksCase, launched: Launched) -> str:
    rows = len(case.args[1]) if case.args[0] == "rows" else case.args[3]
    most = BYTES_A_ROW * rows
    for rank in range(case.ranks):
        entries = of_rank(launched, rank)
        given = sum(entry.total_bytes for entry in entries)
        if given > most:
            widest = max(entries, key=lambda entry: entry.byte_count)
            return (
                f"rank {rank} takes part with {given:,} bytes ({widest.what} of {list(widest.shape)}) where {most:,} are enough: "
                "do not gather the logits; the best value of each rank, and whose token it is, tell all"
            )
    return ""


SHARDED_ARGMAX = Exercise(
    name="lab03.sharded_argmax",
    lab="03",
    number="3.5",
    title="The best token of a vocabulary in parts",
    function="sharded_argmax",
    statement=(
        "Each rank holds the rows of the head for a part of the vocabulary: `head [share, hidden]`, `bias [share]`, and `first`, "
        "the token that its row 0 is of. Shares may differ by one. Return on every rank the token `[rows]` (int64) with the "
        "largest logit of **all** ranks for each row of `hidden [rows, hidden]`; the smallest token among equals. A rank may "
        "give 16 bytes a row in all (GPT-J's logits would be 100 kB): use `dist.all_gather(list_of_tensors, tensor)`, or "
        "`dist.all_reduce(tensor, op)` with `dist.ReduceOp.MAX` and `MIN`."
    ),
    points=15,
    minutes=20,
    difficulty=3,
    cases=_cases,
    reference=sharded_argmax,
    ends_at_error=True,
    run=inside(run_argmax),
    observe=values_of,
    comparison=Comparison(),
    names=BY_RANK,
    contract=LedgerContract(_few_bytes),
    mistakes=(
        Mistake("Each rank gives the best token of its own part: compare the values of all ranks.", _own),
        Mistake("You take a row's place in the part for its token: add `first`.", _no_first),
        Mistake("You give the rank that holds the best token, not the token.", _whose),
        Mistake("You take the largest token of all ranks' best ones: compare their logits, not their numbers.", _largest_token),
        Mistake("The bias is missing: it is part of the logits.", _no_bias),
        Mistake(
            "Where two ranks have equal best logits you add their tokens up: the smaller token is asked for.", _sum_of_equals
        ),
        Mistake("Among equal logits of two ranks you take the later one's: the smallest token is asked for.", _last_of_equals),
    ),
    hints=(
        "Which two numbers a row must each rank tell the others?",
        "value, place = logits.max(-1); all_gather value and place + first in one float64 tensor [2, rows].",
        "Stack what was gathered; values.argmax(0) says whose token wins (the first of equals), tokens.gather(0, ...) which it is.",
    ),
)
