"""Exercises 5.2 and 5.3: calibrators choose how much of an activation's range quantization keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws

STEPS = 50
"""The limit with the least error is searched among 1/50, 2/50, ... 50/50 of the largest magnitude."""


# 5.2 ------------------------------------------------------------------------------------------------------------------
def rounding_error(x: Tensor, limit: float, bits: int) -> float:
    """The mean squared difference between x and its symmetric quantized form. The scale maps `limit` to the highest integer."""
    highest = 2 ** (bits - 1) - 1
    scale = limit / highest or 1.0
    rounded = (x.double() / scale).round().clamp(-highest - 1, highest) * scale
    return float((rounded - x.double()).square().mean())


def _limit_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = [
        Case("inputs of fc_out in gptj-tiny, 8 bits", (draws.real_inputs(16), 8)),
        Case("inputs of fc_out in gptj-tiny, 4 bits", (draws.real_inputs(9), 4)),
        Case("heavy-tailed numbers, 4 bits", (draws.heavy_tailed(draws.pick.randrange(20, 40), 77), 4)),
        Case("one outlier, 8 bits", (draws.one_outlier(1500), 8)),
        Case("negative numbers, 3 bits", (draws.negative(7, 31), 3)),
        Case("all numbers equal, 8 bits", (draws.constant(5, 5), 8)),
    ]
    return [*cases, Case("all numbers 0, 8 bits", (draws.constant(3, 4) * 0, 8))]


def _error_of_limit(case: Case, value: Any) -> Any:
    """Return the answer with the limit "mse" replaced by the rounding error for this limit.

    The errors are compared, because limits with equal errors are equally good.
    """
    if not isinstance(value, dict) or "mse" not in value:
        return value
    return {**value, "mse": rounding_error(case.args[0], float(value["mse"]), case.args[1])}


CLIP_LIMITS = Exercise(
    name="lab05.clip_limits",
    lab="05",
    number="5.2",
    title="Three calibrators",
    function="clip_limits",
    statement=(
        'Return three limits for the tensor `x`, as numbers in a dictionary:\n\n- `"min-max"`: the largest magnitude $m$.\n'
        '- `"percentile"`: the 99.9 % quantile of the magnitudes (`torch.quantile`).\n- `"mse"`: the one of $m/50, 2m/50, '
        "\\dots, m$ with the smallest mean squared error: quantize `x`, dequantize it, and compare with `x`. The limit becomes "
        "the highest integer, $2^{bits-1}-1$; integers above it are clipped to it, and those below $-2^{bits-1}$ to "
        "$-2^{bits-1}$. There is no zero point.\n\nIf all numbers are 0, all limits are 0."
    ),
    points=15,
    minutes=12,
    difficulty=3,
    core=True,
    cases=_limit_cases,
    hints=(
        "What happens to a number beyond the limit? And what does a smaller limit do to all the other numbers?",
        "For each limit: scale = limit / highest. Round x / scale, clamp it, multiply by scale, and compare with x. Keep the "
        "limit with the smallest error.",
        "error = ((x / scale).round().clamp(-highest - 1, highest) * scale - x).square().mean(); torch.quantile(x.abs(), 0.999)",
    ),
    observe=_error_of_limit,
)


# 5.3 ------------------------------------------------------------------------------------------------------------------
def _divergence_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    real = torch.histc(draws.real_weight(300, 256).abs(), 256)
    tailed = torch.histc(draws.heavy_tailed(4000).abs(), 120)
    cases = [
        Case(f"a weight of gptj-tiny, {kept} of 256 bins kept, 16 levels", (real.clone(), kept, 16)) for kept in (64, 160, 256)
    ]
    cases += [
        Case(f"heavy-tailed numbers, {kept} of 120 bins kept, 8 levels", (tailed.clone(), kept, 8)) for kept in (16, 40, 120)
    ]
    outlier = torch.histc(draws.one_outlier(900).abs(), 48)
    cases.append(Case("one outlier, 12 of 48 bins kept, 4 levels", (outlier, 12, 4)))
    zeros = torch.zeros(24, dtype=torch.float32, device="cpu")
    zeros[0] = draws.pick.randrange(5, 50)
    return [*cases, Case("all numbers in the first bin, 12 of 24 bins kept, 3 levels", (zeros, 12, 3))]


CLIP_DIVERGENCE = Exercise(
    name="lab05.clip_divergence",
    lab="05",
    number="5.3",
    title="Entropy: how much a limit changes the distribution",
    function="clip_divergence",
    statement=(
        "`counts` is a histogram of magnitudes; the limit keeps its first `kept` bins. $P$: these bins, with all later counts "
        "added to the last kept bin. $Q$: the first `kept` bins, without later counts; merge neighbours into `levels` groups "
        "of equal width, and spread each group's sum evenly over its bins that are **not empty**. Divide both by their sums. "
        "Return $\\sum P \\log (P / Q)$ over bins with $P > 0$, where $Q$ counts as at least $10^{-10}$."
    ),
    points=8,
    minutes=15,
    difficulty=4,
    cases=_divergence_cases,
    hints=(
        "Which of the two distributions knows about the numbers beyond the limit?",
        "View the kept bins as [levels, kept // levels]. In each row, the sum divided by the number of bins above 0 goes to "
        "those bins.",
        "groups = counts[:kept].view(levels, -1); q = groups.sum(1, keepdim=True) / (groups > 0).sum(1, "
        "keepdim=True).clamp_min(1) * (groups > 0)",
    ),
)
EXERCISES = (CLIP_LIMITS, CLIP_DIVERGENCE)
