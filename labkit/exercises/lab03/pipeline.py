"""Exercises 3.7 and 3.8: one stage of a pipeline, and the timetable of all stages."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab03.on_ranks import (
    CHECK_SECONDS,
    LedgerContract,
    RanksCase,
    calls_of,
    in_words,
    of_rank,
    on_ranks,
    start_ranks,
    values_of,
)
from labkit.launch import Each, Launched
from labkit.launch.ledger import COMPUTE
from labkit.launch.ledger_compute import compute
from labkit.plurals import counted


def run_layers(x: Tensor, layers: list[Tensor], piece: int = 0) -> Tensor:
    """The computation of a stage: `x + tanh(x @ weight.T)` for each weight.

    The ledger records the call as work on micro-batch `piece`.
    """
    with compute(piece):
        for weight in layers:
            x = x + torch.tanh(x @ weight.T)
    return x


# 3.7 ------------------------------------------------------------------------------------------------------------------
def _stage_cases(seed: int) -> list[Case]:
    cases: list[Case] = []
    for number, (ranks, tokens) in enumerate(((2, [4, 4, 4, 4]), (3, [3, 5, 2, 4, 1]), (4, [2, 2, 2, 2, 2]), (2, [7]))):
        generator = torch.Generator().manual_seed(30 * seed + number)
        width = 6 + number
        pieces = [torch.randn(count, width, generator=generator) for count in tokens]
        layers = [
            [torch.randn(width, width, generator=generator) * 0.4 for _ in range(1 + (r + number) % 2)] for r in range(ranks)
        ]
        given = Each([pieces if rank == 0 else [] for rank in range(ranks)])
        shapes = [list(piece.shape) for piece in pieces]
        label = f"{counted(ranks, 'stage')}, tokens of the micro-batches: {', '.join(map(str, tokens))}"
        cases.append(RanksCase(label, (given, shapes, Each(layers)), ranks=ranks))
    return cases


def _handed_on(case: RanksCase, launched: Launched) -> str:
    shapes = [tuple(shape) for shape in case.args[1]]
    for rank in range(case.ranks):
        wanted = [("recv", shape) for shape in shapes] * (rank > 0) + [("send", shape) for shape in shapes] * (
            rank < case.ranks - 1
        )
        found = calls_of(launched, rank)
        if sorted(found.elements()) != sorted(wanted):
            return (
                f"stage {rank} of {case.ranks} calls {in_words(found)}: send each micro-batch once to the next stage, "
                "receive it there, and send nothing else"
            )
        worked = [entry.piece for entry in launched.ledger if entry.rank == rank and entry.what == COMPUTE]
        if not worked:
            return (
                f"rank {rank} of {case.ranks} never calls run_layers: compute with run_layers(x, layers, number), because "
                "run_layers also records the work for the timeline"
            )
        if worked != list(range(len(shapes))):
            return f"rank {rank} calls run_layers with the numbers {worked}: pass the number of the micro-batch, from 0"
        entries = sorted(of_rank(launched, rank), key=lambda entry: entry.began + entry.seconds * (entry.what == "recv"))
        order = [entry.what for entry in entries]
        if 0 < rank < case.ranks - 1 and len(shapes) > 2:
            before = order[: order.index("send")].count("recv")
            if before > 2:
                return (
                    f"stage {rank} receives {before} of {len(shapes)} micro-batches before it sends the first micro-batch, so "
                    "the next stages are idle: send each micro-batch as soon as it is computed"
                )
        if rank == 0 and case.ranks > 1 and len(shapes) > 2 and (late := _late_sends(launched)):
            return late
    return ""


def _late_sends(launched: Launched) -> str:
    """A message if the first stage computes several micro-batches before it sends the first one; otherwise ""."""
    own = sorted((entry for entry in launched.ledger if entry.rank == 0), key=lambda entry: entry.began)
    before = [entry.what for entry in own[: next((i for i, e in enumerate(own) if e.what == "send"), 0)]]
    if before.count(COMPUTE) > 2:
        early = f"stage 0 computes {before.count('compute')} micro-batches before it sends the first one"
        return f"{early}: send each micro-batch as soon as it is computed"
    return ""


PIPELINE_STAGE = Exercise(
    name="lab03.pipeline_stage",
    lab="03",
    number="3.7",
    title="Write a stage",
    function="pipeline_stage",
    statement=(
        "Each rank is a stage. Stage 0 gets the micro-batches in `pieces`; the other stages know only their shapes, from "
        "`shapes`. Take one micro-batch from `pieces`, or receive it by `dist.recv(tensor, src)` into `torch.empty(shape)`. "
        "Compute `run_layers(x, layers, number)`, the work of this stage on micro-batch `number` (from 0). Send the result to "
        "the next stage by `dist.send(tensor, dst)` **before** you take the next micro-batch. The last stage returns a list of "
        "its results; all other stages return `[]`."
    ),
    points=15,
    minutes=25,
    difficulty=3,
    cases=_stage_cases,
    ends_at_error=True,
    run=on_ranks,
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    observe=values_of,
    contract=LedgerContract(_handed_on),
    hints=(
        "Use one loop over the micro-batches: take a micro-batch, compute, and send the result.",
        "Rank 0 takes its micro-batches from `pieces`. The other ranks make an empty tensor, which dist.recv fills from the "
        "previous rank. Every rank except the last sends its result.",
        "for i, shape in enumerate(shapes): take x; x = run_layers(x, layers, i); dist.send(x, rank + 1) or results.append(x)",
    ),
)


# 3.8 ------------------------------------------------------------------------------------------------------------------
def _schedule_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    kinds = [
        ([1.0, 1.0], 4),
        ([1.0, 1.0, 1.0, 1.0], 3),
        ([1.0, 3.0, 2.0], 5),
        ([2.0], 3),
        ([draw.uniform(1, 4) for _ in range(draw.randrange(3, 6))], draw.randrange(2, 7)),
    ]
    return [
        Case(f"stages of {', '.join(f'{s:.3g}' for s in seconds)} s, {pieces} micro-batches", (seconds, pieces))
        for seconds, pieces in kinds
    ]


PIPELINE_SCHEDULE = Exercise(
    name="lab03.pipeline_schedule",
    lab="03",
    number="3.8",
    title="The timetable and its bubble",
    function="pipeline_schedule",
    statement=(
        "Stage s needs `seconds[s]` for each micro-batch. Sending takes no time. Every stage takes its micro-batches in order, "
        "and begins with each micro-batch as soon as possible. Return `(begins, idle)`: `begins[s][i]` is the time at which "
        "stage s begins with micro-batch i (counted from 0), and `idle` is the mean fraction of the total time in which a "
        "stage is idle. For p equal stages and m micro-batches, `idle` is $(p - 1) / (m + p - 1)$ (GPipe); your function must "
        "also be right for unequal stages."
    ),
    points=10,
    minutes=20,
    difficulty=3,
    core=True,
    cases=_schedule_cases,
    hints=(
        "A stage can begin with a micro-batch when two things are done: the previous stage with this micro-batch, and this "
        "stage with the previous micro-batch.",
        "A begin is the later of these two ends; take 0 where there is no previous stage or micro-batch. Until the last end of "
        "all, a stage is idle whenever it does not work.",
        "begins[s][i] = max(begins[s-1][i] + seconds[s-1], begins[s][i-1] + seconds[s])",
    ),
)
