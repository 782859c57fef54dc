"""Exercise 2.5: softmax and weighted sum in one pass, by a running maximum and a running sum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import HeldContract
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab02.draws import Draws

Blocks = Iterator[tuple[Tensor, Tensor]]
OVERWRITTEN = 12345.0
"""When the last block has been used, the memory of the blocks is filled with this value."""


class BlockStream:
    """Yields the blocks in order, each block once, as pairs of scores `[n]` and values `[n, head_dim]`.

    All blocks use the same memory, as on a chip: each block overwrites the previous block.
    """

    def __init__(self, scores: list[Tensor], values: list[Tensor]) -> None:
        self._blocks = [(s.clone(), v.clone()) for s, v in zip(scores, values, strict=True)]
        most = max(len(s) for s in scores)
        self._scores, self._values = scores[0].new_empty(most), values[0].new_empty(most, values[0].shape[1])

    def most_held(self) -> int:
        """How many numbers a function may keep besides the current block. This is enough for running sums and the results of a
        few blocks.
        """
        return 4 * (self._scores.numel() + self._values.numel()) + 8 * (self._values.shape[1] + 2) + 64

    def __iter__(self) -> BlockStream:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if not self._blocks:
            # This value is not NaN, because other mistakes already make NaN.
            self._scores.fill_(0.0), self._values.fill_(OVERWRITTEN)
            raise StopIteration
        scores, values = self._blocks.pop(0)
        count = len(scores)
        self._scores[:count], self._values[:count] = scores, values
        return self._scores[:count], self._values[:count]


def online_softmax(blocks: Blocks) -> Tensor:
    """The reference of exercise 2.5."""
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
            continue  # All keys so far are masked, and -inf - -inf would be NaN.
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


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    kinds: list[tuple[str, list[int], Any]] = [
        ("one block", [5], lambda index, s: s),
        ("growing scores", [4, 7, 1, draws.pick.randrange(2, 9)], lambda index, s: s + 2 * index),
        ("falling scores", [3, 3, 6], lambda index, s: s - 2 * index),
        ("scores near 1000", [6, 2, 5], lambda index, s: s + 1000 + index),
        ("scores near -300", [4, 5, 2], lambda index, s: s - 300 - index),
        ("many blocks", [6] * 30, lambda index, s: s + index % 3),
        ("the first block masked", [4, 4, 3], lambda index, s: s * 0 - math.inf if index == 0 else s),
        ("some keys masked", [5, 4], lambda index, s: torch.where(torch.arange(len(s)) % 2 == 1, -math.inf, s)),
    ]
    for label, counts, change in kinds:
        head_dim = draws.pick.choice([3, 5, 8])
        scores = [change(index, draws.normal(count).cpu()) for index, count in enumerate(counts)]
        values = [draws.normal(count, head_dim).cpu() for count in counts]
        sizes = f"{len(counts)} of {counts[0]}" if len(counts) > 9 else f"of {counts}"
        cases.append(Case(f"{label}: blocks {sizes}", (BlockStream(scores, values),)))
    return cases


SHRINK = "The sign in your factor is wrong: the sums so far must shrink, so a factor is at most 1"

ONLINE_SOFTMAX = Exercise(
    name="lab02.online_softmax",
    lab="02",
    number="2.5",
    title="Softmax in one pass",
    function="online_softmax",
    statement=(
        "Return `softmax(scores) @ values` over **all** blocks together. Read each block only once. `blocks` yields pairs "
        "`scores [n]`, `values [n, head_dim]`. Each pair overwrites the previous one in memory, so do not keep them. A masked "
        "key has the score $-\\infty$; a whole block may be masked. Keep a running maximum $m$, sum $s$ and weighted sum "
        "$o$:\n\n$$m' = \\max(m, \\max_i x_i) \\quad s' = s\\,e^{m - m'} + \\sum_i e^{x_i - m'} \\quad o' = o\\,e^{m - m'} + "
        "\\sum_i e^{x_i - m'} v_i$$"
    ),
    points=10,
    minutes=15,
    difficulty=3,
    cases=_cases,
    reference=online_softmax,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "When the maximum grows, the weighted sum so far must become smaller too; yours stays as it was.",
            lambda blocks: _one_pass(blocks, rescale_average=False),
        ),
        Mistake(
            "When the maximum grows, the sum so far must become smaller too; yours stays as it was.",
            lambda blocks: _one_pass(blocks, rescale_sum=False),
        ),
        Mistake(
            "You do not rescale when the maximum grows, but both sums so far are relative to the old maximum.",
            lambda blocks: _one_pass(blocks, rescale_sum=False, rescale_average=False),
        ),
        Mistake("exp(scores) overflows in float32 above 88: subtract the running maximum before exp.", _no_maximum),
        Mistake(
            "You average the softmaxes of the blocks; each block must be weighted with its sum of exponentials.",
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
    hints=(
        "Update three variables with every block: the maximum, the sum and the weighted sum. What are their values before the "
        "first block?",
        "When the maximum grows, both sums so far are too large, because they are relative to the old maximum. Multiply both "
        "by exp(old maximum - new maximum), then add the block's part.",
        "new = max(largest, float(scores.max())); while this is -inf, there is nothing to add.",
    ),
    contract=HeldContract(lambda case: case.args[0].most_held()),
)

EXERCISES = (ONLINE_SOFTMAX,)
