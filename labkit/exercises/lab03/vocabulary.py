"""Exercise 3.5: find the best token when each rank holds a part of the vocabulary, without gathering the logits."""

from __future__ import annotations

from typing import Any

import torch

from labkit.checkpoints.split import span
from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.on_ranks import (
    CHECK_SECONDS,
    LedgerContract,
    RanksCase,
    inside,
    of_rank,
    start_ranks,
    values_of,
)
from labkit.launch import Each, Launched
from labkit.plurals import counted

BYTES_A_ROW = 16
"""The number of bytes that a rank may send for each row: eight bytes for a value and eight bytes for a token."""


def run_argmax(argmax: Any, kind: str, *given: Any) -> Any:
    """Find the best token for each row, or generate tokens with a model that uses the learner's function."""
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
        if label:  # Each token of the first half has the same logit as a token of the second half.
            head[vocab // 2 :], bias[vocab // 2 :] = head[: vocab // 2], bias[: vocab // 2]
        held = [span(vocab, rank, ranks) for rank in range(ranks)]
        heads = Each([head[part.start : part.stop].contiguous() for part in held])
        biases = Each([bias[part.start : part.stop].contiguous() for part in held])
        firsts = Each([part.start for part in held])
        says = f"{label}{counted(rows, 'row')}, {counted(vocab, 'token')} over {counted(ranks, 'rank')}"
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
                f"rank {rank} sends {given:,} bytes ({widest.what} of {list(widest.shape)}), but {most:,} are enough: do not "
                f"gather "
                "the logits; the other ranks need only this rank's best value and its token"
            )
    return ""


SHARDED_ARGMAX = Exercise(
    name="lab03.sharded_argmax",
    lab="03",
    number="3.5",
    title="The best token of all ranks",
    function="sharded_argmax",
    statement=(
        "Each rank holds a part of the head: `head [share, hidden]`, `bias [share]`, and `first`, the token number of its row "
        "0. Shares can differ by one. For each row of `hidden [rows, hidden]`, return on every rank the token with the largest "
        "logit of **all** ranks: `[rows]`, int64. If several logits are equal, return the smallest token. A rank may send 16 "
        "bytes for each row (all logits of GPT-J would take 100 kB for a row). Use `dist.all_gather(list_of_tensors, "
        "tensor)`, or `dist.all_reduce(tensor, op)` with `dist.ReduceOp.MAX` and `MIN`."
    ),
    points=15,
    minutes=25,
    difficulty=3,
    cases=_cases,
    ends_at_error=True,
    run=inside(run_argmax),
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    observe=values_of,
    contract=LedgerContract(_few_bytes),
    hints=(
        "Which two numbers must each rank send to the others for each row?",
        "max over the last dimension returns values and their indices. Turn the indices into tokens, put the values and the "
        "tokens into one float64 tensor [2, rows], and all_gather this tensor.",
        "Stack the gathered tensors. values.argmax(0) is the rank with the best token (the first such rank if values are "
        "equal); tokens.gather(0, ...) takes the token of this rank.",
    ),
)
