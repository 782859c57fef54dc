"""The answers to exercises 3.7 and 3.8: references, comparisons and known mistakes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab03.on_ranks import (
    BY_RANK,
)
from labkit.exercises.lab03.pipeline import PIPELINE_SCHEDULE, PIPELINE_STAGE, run_layers

Shapes = list[list[int]]


# 3.7 ------------------------------------------------------------------------------------------------------------------
def pipeline_stage(pieces: list[Tensor], shapes: Shapes, layers: list[Tensor]) -> list[Tensor]:
    """The reference solution of exercise 3.7."""
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
    """Run a stage with one mistake, which `change` names."""
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


PIPELINE_STAGE_ANSWER = Answer(
    exercise=PIPELINE_STAGE,
    reference=pipeline_stage,
    comparison=Comparison(),
    names=BY_RANK,
    mistakes=(
        Mistake("You send the tensor that you received; send the result of this stage.", _unchanged),
        Mistake(
            "All your stages return results, but only the last stage may do so: the other stages must return [].", _all_give
        ),
        Mistake("Stage 0 sends its micro-batches without computing its own layers.", _first_idle),
        Mistake("You run each micro-batch through the layers of a stage twice.", _twice),
        Mistake("You join the results into one tensor; return a list with one result for each micro-batch.", _one_tensor),
        Mistake("Your results are in the wrong order: the result of the first micro-batch must come first.", _backwards),
    ),
)


# 3.8 ------------------------------------------------------------------------------------------------------------------
def pipeline_schedule(seconds: list[float], pieces: int) -> tuple[list[list[float]], float]:
    """The reference solution of exercise 3.8."""
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
    """Return a message about a wrong answer.

    The message names the first number in `begins` that is impossible or too late, and says why. If all numbers in `begins` are
    right, the message is about the idle share.
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
                return f"{place}: stage {stage - 1} has not finished micro-batch {piece} by then."
            return f"{place}: stage {stage} could begin earlier, because it is free and has micro-batch {piece}."
    if idle and abs(found[1] - 100 * idle) < 1e-6 * found[1]:
        return "Your `begins` are right, but `idle` is in percent; return a share from 0 to 1."
    return (
        f"Your `begins` are right, but `idle` is {found[1]:.4g}, too {'large' if found[1] > idle else 'small'}: the total time "
        "goes from 0 to the last end. For each stage, take the share of this time in which it does not work; idle is the mean "
        "of these shares."
    )


def _by_piece(seconds: list[float], pieces: int) -> tuple[list[list[float]], float]:
    begins, idle = _schedule(seconds, pieces)
    return [[row[piece] for row in begins] for piece in range(pieces)], idle


PIPELINE_SCHEDULE_ANSWER = Answer(
    exercise=PIPELINE_SCHEDULE,
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
            "You use the formula for equal stages; instead, divide the working time of all stages by the number of "
            "stages times "
            "the total time.",
            idle_of="formula",
        ),
        _planned(
            "You return the share of the time in which the stages work; the idle share is 1 minus this share.", idle_of="busy"
        ),
        Mistake("Your table holds the times at which the work ends; return the times at which it begins.", _ends),
        Mistake("Your table has one row for each micro-batch; it must have one row for each stage.", _by_piece),
    ),
)

ANSWERS = (PIPELINE_STAGE_ANSWER, PIPELINE_SCHEDULE_ANSWER)
