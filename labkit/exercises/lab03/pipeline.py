"""Exercises 3.7 and 3.8: one stage of a pipeline, and the timetable of all stages."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab03.on_ranks import (
    BY_RANK,
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

Shapes = list[list[int]]


def run_layers(x: Tensor, layers: list[Tensor], piece: int = 0) -> Tensor:
    """The computation of a stage: `x + tanh(x @ weight.T)` for each weight.

    The ledger records this as work on micro-batch `piece`.
    """
    with compute(piece):
        for weight in layers:
            x = x + torch.tanh(x @ weight.T)
    return x


# 3.7 ------------------------------------------------------------------------------------------------------------------
def pipeline_stage(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor]) -> list[Tensor]:
    """The reference of exercise 3.7."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    done = []
    for number, shape in enumerate(shapes):
        x = pieces[number] if rank == 0 else torch.empty(shape)
        if rank > 0:
            dist.recv(x, rank - 1)
        x = run_layers(x, layers, number)
        if rank < ranks - 1:
            dist.send(x, rank + 1)
        else:
            done.append(x)
    return done


def _staged(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor], **change: Any) -> list[Tensor]:
    """A stage with one mistake, which `change` names."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    done = []
    for number, shape in enumerate(shapes):
        x = pieces[number] if rank == 0 else torch.empty(shape)
        if rank > 0:
            dist.recv(x, rank - 1)
        given = x
        for _ in range(change.get("times", 1)):
            x = run_layers(x, layers if rank or not change.get("lazy") else [], number)
        if rank < ranks - 1:
            dist.send(given if change.get("unchanged") else x, rank + 1)
        done.append(x)
    return done if rank == ranks - 1 or change.get("all_give") else []


def _unchanged(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor]) -> list[Tensor]:
    return _staged(pieces, shapes, layers, unchanged=True)


def _all_give(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor]) -> list[Tensor]:
    return _staged(pieces, shapes, layers, all_give=True)


def _first_idle(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor]) -> list[Tensor]:
    return _staged(pieces, shapes, layers, lazy=True)


def _twice(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor]) -> list[Tensor]:
    return _staged(pieces, shapes, layers, times=2)


def _one_tensor(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor]) -> Any:
    done = _staged(pieces, shapes, layers)
    return torch.cat(done) if done else []


def _backwards(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor]) -> list[Tensor]:
    return _staged(pieces, shapes, layers)[::-1]


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
                "run_layers also notes the work for the timeline"
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
    """The message if the first stage computes several micro-batches before it sends the first; otherwise ""."""
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
    reference=pipeline_stage,
    ends_at_error=True,
    run=on_ranks,
    prepare=start_ranks,
    seconds=CHECK_SECONDS,
    observe=values_of,
    comparison=Comparison(),
    names=BY_RANK,
    contract=LedgerContract(_handed_on),
    mistakes=(
        Mistake("You send the tensor that you received; send the result of this stage.", _unchanged),
        Mistake(
            "All your stages return results; only the last stage may do so, and the other stages must return [].", _all_give
        ),
        Mistake("Stage 0 sends its micro-batches without computing its own layers.", _first_idle),
        Mistake("You run each micro-batch through the layers of a stage twice.", _twice),
        Mistake("You join the results into one tensor; return a list with one result for each micro-batch.", _one_tensor),
        Mistake("Your results are in the wrong order: the result of the first micro-batch must come first.", _backwards),
    ),
    hints=(
        "Use one loop over the micro-batches: take a micro-batch, compute, and send the result.",
        "Rank 0 takes its micro-batches from `pieces`. The other ranks make an empty tensor, which dist.recv fills from the "
        "previous rank. Every rank except the last sends its result.",
        "for i, shape in enumerate(shapes): take x; x = run_layers(x, layers, i); dist.send(x, rank + 1) or results.append(x)",
    ),
)


# 3.8 ------------------------------------------------------------------------------------------------------------------
def pipeline_schedule(seconds: list[float], pieces: int) -> tuple[list[list[float]], float]:
    """The reference of exercise 3.8."""
    return _schedule(seconds, pieces)


def _schedule(
    seconds: list[float], pieces: int, *, busy: bool = True, waits: bool = True, idle_of: str = "all"
) -> tuple[list[list[float]], float]:
    begins = [[0.0] * pieces for _ in seconds]
    for stage in range(len(seconds)):
        for piece in range(pieces):
            ready = begins[stage - 1][piece] + seconds[stage - 1] if stage and waits else 0.0
            free = begins[stage][piece - 1] + seconds[stage] if piece and busy else 0.0
            begins[stage][piece] = max(ready, free)
    end = begins[-1][-1] + seconds[-1]
    work = pieces * sum(seconds)
    if idle_of == "slowest":
        return begins, 1 - pieces * max(seconds) / end
    if idle_of == "formula":
        return begins, (len(seconds) - 1) / (pieces + len(seconds) - 1)
    if idle_of == "busy":
        return begins, work / (len(seconds) * end)
    return begins, 1 - work / (len(seconds) * end)


def _planned(message: str, **change: Any) -> Mistake:
    return Mistake(message, lambda *given: _schedule(*given, **change))


def _ends(seconds: list[float], pieces: int) -> tuple[list[list[float]], float]:
    begins, idle = _schedule(seconds, pieces)
    return [[begin + own for begin in row] for row, own in zip(begins, seconds, strict=True)], idle


def _equal_stages(seconds: list[float], pieces: int) -> tuple[list[list[float]], float]:
    begins = [[(stage + piece) * own for piece in range(pieces)] for stage, own in enumerate(seconds)]
    return begins, (len(seconds) - 1) / (pieces + len(seconds) - 1)


def _why_not(case: Case, found: Any, right: Any) -> str:
    """A message about a wrong answer.

    It names the first number in `begins` that is impossible or too late, with the reason. If all these numbers are right, it is
    about the idle share.
    """
    seconds, _ = case.args
    begins, idle = right
    for stage, own in enumerate(begins):
        for piece, begin in enumerate(own):
            said = float(found[0][stage][piece])
            if abs(said - begin) <= 1e-9 * begin:
                continue
            place = f"begins[{stage}][{piece}] is {said:.4g}"
            if said < 0:
                return f"{place}: time begins at 0."
            if piece and said < own[piece - 1] + seconds[stage] - 1e-9:
                return f"{place}: stage {stage} is still busy with micro-batch {piece - 1} then."
            if stage and said < begins[stage - 1][piece] + seconds[stage - 1] - 1e-9:
                return f"{place}: stage {stage - 1} has not done micro-batch {piece} by then."
            return f"{place}: stage {stage} could begin earlier, because it is free and has micro-batch {piece}."
    if idle and abs(found[1] - 100 * idle) < 1e-6 * found[1]:
        return "Your begins are right, but idle is in percent; return a share from 0 to 1."
    return (
        f"Your begins are right, but idle is {found[1]:.4g}, too {'large' if found[1] > idle else 'small'}: the total time "
        "goes from 0 to the last end. For each stage, take the share of this time in which it does not work; idle is the mean "
        "of these shares."
    )


def _by_piece(seconds: list[float], pieces: int) -> tuple[list[list[float]], float]:
    begins, idle = _schedule(seconds, pieces)
    return [[row[piece] for row in begins] for piece in range(pieces)], idle


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
    cases=_schedule_cases,
    reference=pipeline_schedule,
    comparison=Comparison(relative=1e-9),
    names={"[0]": "begins", "[1]": "idle"},
    explain=_why_not,
    mistakes=(
        Mistake(
            "You delay stage s by s times its own seconds, which is right only if all stages are equal.",
            _equal_stages,
        ),
        _planned("Your stages begin with a micro-batch while they still work on the previous micro-batch.", busy=False),
        _planned("Your stages begin with a micro-batch before the previous stage is done with it.", waits=False),
        _planned("You return the idle share of the slowest stage; take the average over all stages.", idle_of="slowest"),
        _planned(
            "You use the formula for equal stages; instead, divide the working time of all stages by the time that they all "
            "have.",
            idle_of="formula",
        ),
        _planned("You return the share of the time in which the stages work; the idle share is 1 minus that.", idle_of="busy"),
        Mistake("Your table holds the times at which the work ends; return the times at which it begins.", _ends),
        Mistake("Your table has one row for each micro-batch; it must have one row for each stage.", _by_piece),
    ),
    hints=(
        "A stage can begin with a micro-batch when two things are done: the previous stage with this micro-batch, and this "
        "stage with the previous micro-batch.",
        "A begin is the later of these two ends; take 0 where there is no previous stage or micro-batch. A stage is idle when "
        "it does not work, until the last end.",
        "begins[s][i] = max(begins[s-1][i] + seconds[s-1], begins[s][i-1] + seconds[s])",
    ),
)
