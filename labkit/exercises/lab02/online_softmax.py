"""Exercise 2.5: softmax and weighted sum in one pass, with a running maximum and running sums."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.contracts import HeldContract
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab02.draws import Draws

OVERWRITTEN = 12345.0
"""The value that fills the blocks' memory once the last block has been used."""


class BlockStream:
    """Yields the blocks in order, each block once, as pairs of scores `[n]` and values `[n, head_dim]`.

    All blocks use the same memory, as on a chip: each block overwrites the previous block.
    """

    def __init__(self, scores: list[Tensor], values: list[Tensor]) -> None:
        self._blocks = [(s.clone(), v.clone()) for s, v in zip(scores, values, strict=True)]
        most = max(len(s) for s in scores)
        self._scores, self._values = scores[0].new_empty(most), values[0].new_empty(most, values[0].shape[1])

    def most_held(self) -> int:
        """The number of values that a function may keep in addition to the current block. This number is enough for running
        sums and the results of a few blocks.
        """
        return 4 * (self._scores.numel() + self._values.numel()) + 8 * (self._values.shape[1] + 2) + 64

    def __iter__(self) -> BlockStream:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if not self._blocks:
            # The memory is not filled with NaN, because other mistakes already lead to NaN.
            self._scores.fill_(0.0), self._values.fill_(OVERWRITTEN)
            raise StopIteration
        scores, values = self._blocks.pop(0)
        count = len(scores)
        self._scores[:count], self._values[:count] = scores, values
        return self._scores[:count], self._values[:count]


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


ONLINE_SOFTMAX = Exercise(
    name="lab02.online_softmax",
    lab="02",
    number="2.5",
    title="Softmax in one pass",
    function="online_softmax",
    statement=(
        "Return `softmax(scores) @ values` over **all** blocks together. Read each block only once. `blocks` yields pairs "
        "`scores [n]`, `values [n, head_dim]`. Each pair overwrites the previous one in memory, so do not keep them. A masked "
        "key has the score $-\\infty$; a whole block can be masked. Keep a running maximum $m$, sum $s$ and weighted sum "
        "$o$:\n\n$$m' = \\max(m, \\max_i x_i) \\quad s' = s\\,e^{m - m'} + \\sum_i e^{x_i - m'} \\quad o' = o\\,e^{m - m'} + "
        "\\sum_i e^{x_i - m'} v_i$$"
    ),
    points=10,
    minutes=15,
    difficulty=3,
    cases=_cases,
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
