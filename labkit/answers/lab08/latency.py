"""The answer to exercise 8.5: reference, comparison and known mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab08.latency import REQUEST_MS
from labkit.planning.collectives import ring_seconds

Numbers = dict[str, float]


def request_ms(
    model: Numbers, gpu: Numbers, link: Numbers, shards: int, batch: int, prompt_tokens: int, new_tokens: int
) -> float:
    """The reference solution of exercise 8.5."""
    return _request(model, gpu, link, shards, batch, prompt_tokens, new_tokens)


def _request(
    model: Numbers,
    gpu: Numbers,
    link: Numbers,
    shards: int,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    *,
    roofline: Callable[[float, float], float] = max,
    flops: int = 2,
    sums: int = 2,
    element: int = 2,
    gaps: Callable[[Numbers], float] = lambda model: model["layers"],
    layers: Callable[[Numbers], float] = lambda model: model["layers"],
    gap_unit: float = 1.0,
    sum_unit: float = 1.0,
    divided: bool = True,
    passes: int = -1,
    prompts: Callable[[int], int] = lambda batch: batch,
    sequences: Callable[[int], int] = lambda batch: batch,
    units: float = 1e3,
) -> float:
    """Return the milliseconds of a request. There is an option for each step of the calculation.

    `passes` is added to the number of new tokens. `gaps` returns how many times a pass counts the gap, and `layers` returns
    how many times it counts the all-reduces of a layer. The seconds of a gap are multiplied by `gap_unit`, and the seconds of
    an all-reduce by `sum_unit`.
    """

    def once(tokens: int) -> float:
        part = shards if divided else 1
        reading = model["weight_bytes"] / part / gpu["read"]
        computing = flops * tokens * model["parameters"] / part / gpu["flops"]
        size = element * tokens * model["hidden"]
        one = ring_seconds(size, shards, bytes_per_second=link["rate"], hop_seconds=link["hop"])
        rest = gap_unit * gaps(model) * gpu["gap"] + sum_unit * layers(model) * sums * one
        return roofline(reading, computing) + rest

    return units * (once(prompts(batch) * prompt_tokens) + (new_tokens + passes) * once(sequences(batch)))


def _no_prefill(
    model: Numbers, gpu: Numbers, link: Numbers, shards: int, batch: int, prompt_tokens: int, new_tokens: int
) -> float:
    return _request(model, gpu, link, shards, batch, 1, new_tokens)


REQUEST_MS_ANSWER = Answer(
    exercise=REQUEST_MS,
    reference=request_ms,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You add reading and computing, but they overlap: the longer one counts.",
            partial(_request, roofline=lambda reading, computing: reading + computing),
        ),
        Mistake("A pass takes the longer of the two times, not the shorter.", partial(_request, roofline=min)),
        Mistake(
            "You count only reading; for a prefill of many tokens, computing takes longer.",
            partial(_request, roofline=lambda a, b: a),
        ),
        Mistake("A parameter costs 2 FLOPs for each token; you count 1.", partial(_request, flops=1)),
        Mistake("Each layer has two all-reduces: after attention and after the MLP. You count one.", partial(_request, sums=1)),
        Mistake("The all-reduces are missing.", partial(_request, sums=0)),
        Mistake("Each number of a sum has 2 bytes; you count 4.", partial(_request, element=4)),
        Mistake("Each layer has its gap; you count it once in a pass.", partial(_request, gaps=lambda model: 1)),
        Mistake("The gaps are missing.", partial(_request, gaps=lambda model: 0)),
        Mistake("Each layer has its all-reduces; you count those of one layer.", partial(_request, layers=lambda model: 1)),
        Mistake("`gap` is in seconds; you add it to milliseconds.", partial(_request, gap_unit=1e-3)),
        Mistake("The time of an all-reduce is in seconds; you add it to milliseconds.", partial(_request, sum_unit=1e-3)),
        Mistake(
            "You add the milliseconds of the all-reduces (those of 8.4, for example) to seconds.",
            partial(_request, sum_unit=1e3),
        ),
        Mistake("Each shard reads and computes only its share of the model.", partial(_request, divided=False)),
        Mistake(
            "The prefill already gives the first new token; you have one pass too many.",
            partial(_request, passes=0),
        ),
        Mistake("The prefill handles the prompts of the whole batch.", partial(_request, prompts=lambda batch: 1)),
        Mistake(
            "A decode pass handles one token of each sequence; yours handles one sequence.",
            partial(_request, sequences=lambda batch: 1),
        ),
        Mistake("The prefill reads whole prompts; yours has one token of each.", _no_prefill),
        Mistake("That is seconds; return milliseconds.", partial(_request, units=1.0)),
    ),
)
ANSWERS = (REQUEST_MS_ANSWER,)
