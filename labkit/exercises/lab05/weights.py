"""Exercise 5.4: quantize a weight to small integers, with one scale for each row, or for each group of numbers in a row."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws, away_from_ties


def group_steps(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """The quantization step of each number of a weight `[out, in]`, for a scale that makes the largest magnitude of the
    number's group the highest integer.
    """
    largest = weight.reshape(len(weight), -1, group_size).abs().amax(-1, keepdim=True)
    steps = largest.expand(-1, -1, group_size).flatten(1) / (2 ** (bits - 1) - 1)
    return torch.where(steps == 0, 1.0, steps)


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    zero_row = draws.normal(4, 24)
    zero_row[2] = 0
    rows = draws.pick.randrange(3, 20)
    weights = [
        ("a weight of gptj-tiny", draws.real_weight(rows, 128), 8, 128),
        ("a weight of gptj-tiny", draws.real_weight(5, 96), 4, draws.pick.choice([16, 32, 48])),
        ("a row of zeros", zero_row, 4, 24),
        ("one outlier", draws.one_outlier(6, 40), 4, 8),
        ("negative numbers", draws.negative(3, 30), 3, 10),
        ("all numbers equal", draws.constant(2, 12), 2, 6),
        ("all numbers 0", draws.constant(3, 10) * 0, 8, 5),
    ]
    cases = []
    for label, weight, bits, group in weights:
        safe = away_from_ties(weight, group_steps(weight, bits, group))
        words = f"{label}, {list(weight.shape)}, {bits} bits, groups of {group}"
        cases.append(Case(words, (safe, bits, group)))
    return cases


QUANTIZE_WEIGHT = Exercise(
    name="lab05.quantize_weight",
    lab="05",
    number="5.4",
    title="One scale per row, or per group",
    function="quantize_weight",
    statement=(
        "Quantize `weight` `[out, in]` symmetrically. In each row, every `group_size` neighbours share a scale: their largest "
        "magnitude becomes the highest integer, $2^{bits-1}-1$. Return `(integers, scales)`: int8 `[out, in]`, and float32 "
        "`[out, in / group_size]`. A group of zeros gets the scale 1.0. If `group_size` is `in`, each row has one scale."
    ),
    points=15,
    minutes=10,
    difficulty=2,
    core=True,
    cases=_cases,
    hints=(
        "Which view of the weight puts the numbers that share a scale into a dimension of their own?",
        "weight.view(out, -1, group_size) is [out, groups, group_size]. Take the largest magnitude over the last dimension, "
        "divide, round, and flatten the groups again.",
        "scales = groups.abs().amax(-1) / highest; scales[scales == 0] = 1.0; (groups / scales[..., "
        "None]).round().to(torch.int8).flatten(1)",
    ),
)
EXERCISES = (QUANTIZE_WEIGHT,)
