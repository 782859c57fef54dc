"""Exercises 3.1 and 3.2: linear layers whose weight is cut by output rows (3.1) or by input columns (3.2)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab03.on_ranks import (
    CHECK_SECONDS,
    Call,
    LedgerContract,
    RanksCase,
    exactly,
    inside,
    on_ranks,
    start_ranks,
    values_of,
)
from labkit.exercises.lab03.small_gptj import stretch
from labkit.exercises.lab03.work import Work
from labkit.launch import Each, Launched
from labkit.plurals import counted


# 3.1 ------------------------------------------------------------------------------------------------------------------
def _column_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    cases: list[Case] = []
    for ranks, tokens, width, out in ((2, 1, 6, 8), (2, 5, 7, 9), (3, 4, 5, 11), (4, 2, 3, 6)):
        weight, bias = torch.randn(out, width, generator=generator), torch.randn(out, generator=generator)
        x = torch.randn(tokens, width, generator=generator)
        cases.append(
            RanksCase(
                f"{counted(ranks, 'rank')}, {counted(tokens, 'token')}, weight [{out}, {width}]", (x, weight, bias), ranks=ranks
            )
        )
    return cases


def counted_share(split: Any, x: Tensor, weight: Tensor, bias: Tensor) -> list[Any]:
    """Return this rank's value, its number of multiplications, and the largest number of values that a single call copied from
    torch to Python.
    """
    work = Work()
    with work.counted():
        value = split(x, weight, bias)
    return [value, work.multiplied, work.taken_out]


def _values(case: Case, launched: Launched) -> list[Any]:
    return [value for value, *_ in launched.values]


def _nothing(case: RanksCase, rank: int) -> Counter[Call]:
    return Counter()


_SILENT = exactly(_nothing, "each rank has the whole `x` and needs nothing from the other ranks")


def _own_work(case: RanksCase, launched: Launched) -> str:
    if words := _SILENT.rule(case, launched):
        return words
    x, weight, bias = case.args
    for rank, (_, multiplied, taken_out) in enumerate(launched.values):
        held = stretch(len(weight), rank, case.ranks)
        share = (held.stop - held.start) * weight.shape[1]
        if multiplied > len(x) * share:
            return (
                f"rank {rank} of {case.ranks} multiplies {multiplied} times, but its own output features need only "
                f"{len(x) * share} multiplications: cut weight and bias before the product, not the output after it"
            )
        if taken_out > max(share, x.numel(), len(bias)):
            return (
                f"rank {rank} of {case.ranks} takes {taken_out} numbers out of torch, but its share of weight has only "
                f"{share}: "
                "cut weight and bias first"
            )
    return ""


SPLIT_COLUMNS = Exercise(
    name="lab03.split_columns",
    lab="03",
    number="3.1",
    title="Cut by output: nothing to send",
    function="split_columns",
    statement=(
        "Every rank runs this function. `dist.get_rank()` is the number of this rank, `dist.get_world_size()` the number of "
        "ranks. Return the output features of `F.linear(x, weight, bias)` that belong to this rank: `[tokens, share]`. Rank 0 "
        "has the first features. If the features cannot be divided evenly, each of the first ranks gets one feature more: 6 "
        "features over 4 ranks are 2, 2, 1 and 1. Use only this rank's share of `weight [out, in]` and `bias [out]`, and do "
        "not call a collective."
    ),
    points=5,
    minutes=15,
    difficulty=1,
    core=True,
    cases=_column_cases,
    run=inside(counted_share),
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    observe=_values,
    ends_at_error=True,
    contract=LedgerContract(_own_work),
    hints=(
        "Which rows of weight make which columns of the output?",
        "divmod(out, ranks) returns the rows of every rank and the rows left over. Each of the first ranks gets one row more. "
        "Slice weight and bias, and call F.linear with the two slices.",
        "size, more = divmod(out, ranks): rank r begins at row r * size + min(r, more), and has size + (r < more) rows.",
    ),
)


# 3.2 ------------------------------------------------------------------------------------------------------------------
def _row_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    cases: list[Case] = []
    for ranks, tokens, width, out in ((2, 1, 6, 8), (2, 5, 7, 9), (3, 4, 11, 5), (4, 2, 6, 3)):
        weight, bias = torch.randn(out, width, generator=generator), torch.randn(out, generator=generator)
        x = torch.randn(tokens, width, generator=generator)
        held = [stretch(width, rank, ranks) for rank in range(ranks)]
        shares = [[tensor[:, part].contiguous() for part in held] for tensor in (x, weight)]
        label = f"{counted(ranks, 'rank')}, {counted(tokens, 'token')}, weight [{out}, {width}]"
        cases.append(RanksCase(label, (Each(shares[0]), Each(shares[1]), bias), ranks=ranks))
    return cases


def _one_sum(case: RanksCase, rank: int) -> Counter[Call]:
    x, weight = (argument.values[0] for argument in case.args[:2])
    return Counter({("all_reduce", (len(x), len(weight))): 1})


SPLIT_ROWS = Exercise(
    name="lab03.split_rows",
    lab="03",
    number="3.2",
    title="Cut by input: one sum",
    function="split_rows",
    statement=(
        "After a layer that is cut as in 3.1, each rank has only some of the features. `x [tokens, share]` holds this rank's "
        "input features, and `weight [out, share]` the columns for these features; `bias [out]` is whole. Return the whole "
        "output `[tokens, out]` **on every rank**. Call `dist.all_reduce(tensor)` once: it adds up the tensors of all ranks, "
        "in place."
    ),
    points=10,
    minutes=10,
    difficulty=2,
    core=True,
    cases=_row_cases,
    run=on_ranks,
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    ends_at_error=True,
    observe=values_of,
    contract=exactly(_one_sum, "each rank has a part of every sum, and a single all_reduce adds up the parts"),
    hints=(
        "What does x @ weight.T compute on a rank that has only some of the input features?",
        "On such a rank, x @ weight.T is only a part of every output. Add up the parts of all ranks. If the sum must contain "
        "something only once, only one rank may add it.",
        "x @ weight.T is this rank's part; all_reduce changes its tensor in place and returns nothing. On rank 0, add the "
        "bias before the all_reduce; or on every rank, add the bias after the all_reduce.",
    ),
)
