"""Exercises 3.6 and 3.9: predict how much a step sends, and use such predictions to choose a layout."""

from __future__ import annotations

import random
from typing import Any

from labkit.checkpoints.split import span
from labkit.exercises.case import Case
from labkit.exercises.contracts import OwnWork
from labkit.exercises.exercise import Exercise
from labkit.exercises.held_cases import HeldCases
from labkit.plurals import counted


# 3.6 ------------------------------------------------------------------------------------------------------------------
def share(count: int, part: int, parts: int) -> int:
    """The number of items in part `part` when `count` items are divided into `parts` parts.

    If `count` cannot be divided evenly, each of the first parts gets one item more.
    """
    return len(span(count, part, parts))


def _numbers(case: Case, value: Any) -> Any:
    """Replace True and False in the answer by 1 and 0, because `stage < stages - 1` is also a right number of sends."""
    if not isinstance(value, dict):
        return value
    return {
        name: [int(item) if isinstance(item, bool) else item for item in items] if isinstance(items, list | tuple) else items
        for name, items in value.items()
    }


def _traffic_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    shapes = [(28, 4096, 1, 4, 1, 0), (24, 1024, 8, 2, 2, 0), (24, 1024, 8, 2, 2, 1), (7, 96, 3, 1, 3, 0), (7, 96, 3, 2, 3, 2)]
    shapes.append((draw.randrange(5, 40), 64 * draw.randrange(1, 50), draw.randrange(2, 30), 2, 4, draw.randrange(1, 3)))
    shapes += [(10, 64, 2, 2, 4, 1), (6, 128, 2, 1, 1, 0)]
    return [
        Case(
            f"{counted(layers, 'layer')} of {hidden}, {counted(tokens, 'token')}, {counted(shards, 'shard')}, stage {stage} "
            f"of {stages}",
            given,
        )
        for given in shapes
        for layers, hidden, tokens, shards, stages, stage in [given]
    ]


STEP_TRAFFIC = Exercise(
    name="lab03.step_traffic",
    lab="03",
    number="3.6",
    title="Count what a step sends",
    function="step_traffic",
    statement=(
        "A step runs `tokens` new tokens, each with `hidden` numbers of 4 bytes, through `layers` blocks on `shards` times "
        "`stages` ranks. Return the calls of one rank in stage `stage` as `{'all_reduce': [calls, bytes], 'send': [calls, "
        "bytes]}`; `bytes` is their total. With more than one shard, the engine calls all_reduce once in each "
        "block and, in stage 0, once after the embedding. A stage holds `share(layers, stage, stages)` blocks and sends the "
        "hidden state once to the next stage."
    ),
    points=10,
    minutes=15,
    difficulty=2,
    cases=_traffic_cases,
    contract=OwnWork(allowed=("share",)),
    observe=_numbers,
    hints=(
        "How many blocks does the stage hold, and how many all-reduces does a block need?",
        "`share` counts the blocks of the stage, and each block calls all_reduce once. One call sends the hidden state of all "
        "tokens.",
        "Three questions decide the counts: is there more than one shard, is this stage 0, and is this the last stage?",
    ),
)


# 3.9 ------------------------------------------------------------------------------------------------------------------

CHOOSE_LAYOUT = Exercise(
    name="lab03.choose_layout",
    lab="03",
    number="3.9",
    title="Choose the layout for a machine",
    function="choose_layout",
    statement=(
        "Return the fastest `(shards, stages)` for one token; GPUs may stay idle. The stages read one after "
        "another; each rank reads its share of `weight_bytes` at `read` bytes/s. Add one all-reduce for each of the `layers` "
        "(none with one shard) and `stages - 1` sends. Each moves `4 hidden` bytes. Use the links `between` nodes for "
        "all-reduces if `shards > gpus`, and for sends if `shards · stages > gpus`; otherwise the links `inside`. "
        "`shards` must divide `heads`; the weights of a rank must fit into `memory`."
    ),
    points=10,
    minutes=35,
    difficulty=4,
    cases=HeldCases("labkit.answers.lab03.counting"),
    hints=(
        "Try every pair with shards * stages <= nodes * gpus. Skip the pairs where shards does not divide heads or the "
        "weights do not fit. Compute the time of the remaining pairs.",
        "reading = weight_bytes / shards / read. The times of the stages add up, so the reading time does not depend on the "
        "number of stages.",
        "Take min over (reading + layers * sum_time + (stages - 1) * send_time, (shards, stages)).",
    ),
)
