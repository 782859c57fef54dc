"""The answer to exercise 2.5: reference, comparison and known mistakes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab02.online_softmax import ONLINE_SOFTMAX

Blocks = Iterator[tuple[Tensor, Tensor]]


def online_softmax(blocks: Blocks) -> Tensor:
    """The reference solution of exercise 2.5."""
    return _one_pass(blocks)


def _one_pass(
    blocks: Blocks,
    *,
    rescale_sum: bool = True,
    rescale_average: bool = True,
    grows: str = "",
    upside_down: bool = False,
    divide: bool = True,
    careful: bool = True,
    start: float = -math.inf,
) -> Tensor:
    largest, total, average = start, torch.zeros(()), torch.zeros(())
    for scores, values in blocks:
        new = max(largest, float(scores.max()))
        if new == -math.inf and careful:
            continue  # All keys so far are masked, so `new` is -inf, and -inf - -inf would be NaN.
        weights = torch.exp(new - scores if upside_down else scores - new)
        grown = grows == "always" or (grows == "after the first block" and largest > -math.inf)
        shrink = torch.exp(torch.tensor(new - largest if grown else largest - new))
        total = total * (shrink if rescale_sum else 1) + weights.sum()
        average = average * (shrink if rescale_average else 1) + weights @ values
        largest = new
    return average / total if divide else average.clone()


def _no_maximum(blocks: Blocks) -> Tensor:
    total, average = torch.zeros(()), torch.zeros(())
    for scores, values in blocks:
        weights = torch.exp(scores)
        total, average = total + weights.sum(), average + weights @ values
    return average / total


def _mean_of_blocks(blocks: Blocks) -> Tensor:
    done = [torch.softmax(scores, 0) @ values for scores, values in blocks if scores.max() > -math.inf]
    return torch.stack(done).mean(0)


def _kept(blocks: Blocks) -> Tensor:
    kept = list(blocks)
    return torch.softmax(torch.cat([s for s, _ in kept]), 0) @ torch.cat([v for _, v in kept])


SHRINK = "The sign in your factor is wrong: the sums so far must shrink, so a factor is at most 1"

ONLINE_SOFTMAX_ANSWER = Answer(
    exercise=ONLINE_SOFTMAX,
    reference=online_softmax,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "When the maximum grows, the weighted sum so far must also become smaller; yours stays as it was.",
            lambda blocks: _one_pass(blocks, rescale_average=False),
        ),
        Mistake(
            "When the maximum grows, the sum so far must also become smaller; yours stays as it was.",
            lambda blocks: _one_pass(blocks, rescale_sum=False),
        ),
        Mistake(
            "You do not rescale when the maximum grows, but both sums so far are relative to the old maximum.",
            lambda blocks: _one_pass(blocks, rescale_sum=False, rescale_average=False),
        ),
        Mistake("exp(scores) overflows in float32 above 88: subtract the running maximum before exp.", _no_maximum),
        Mistake(
            "You average the softmaxes of the blocks; each block must be weighted by its sum of exponentials.",
            _mean_of_blocks,
        ),
        Mistake(
            "You return the weighted sum, but it must be divided by the sum of the weights.",
            lambda blocks: _one_pass(blocks, divide=False),
        ),
        Mistake(
            "While all keys so far are masked, the maximum is -inf, and -inf - -inf is NaN: skip such blocks.",
            lambda blocks: _one_pass(blocks, careful=False),
        ),
        Mistake(
            "You keep the blocks for later, but each block overwrites the previous block: use a block before you take the next "
            "one.",
            _kept,
        ),
        Mistake(
            f"{SHRINK}. While the maximum is -inf your rescaling factor is infinite, and infinity times 0 is NaN.",
            lambda blocks: _one_pass(blocks, grows="always"),
        ),
        Mistake(
            f"{SHRINK}; yours makes them grow.",
            lambda blocks: _one_pass(blocks, grows="after the first block"),
        ),
        Mistake(
            "The sign in your weights is wrong: no score is above the maximum, so a weight is at most 1.",
            lambda blocks: _one_pass(blocks, upside_down=True),
        ),
        Mistake(
            "The maximum must start at -inf. If it starts at 0 and all scores are near -300, all weights are exp(-300) = 0, "
            "and 0 / 0 is NaN.",
            lambda blocks: _one_pass(blocks, start=0.0),
        ),
    ),
)

ANSWERS = (ONLINE_SOFTMAX_ANSWER,)
