"""The answers to exercises 5.2 and 5.3: references, comparisons and known mistakes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab05.calibration import CLIP_DIVERGENCE, CLIP_LIMITS, STEPS


# 5.2 ------------------------------------------------------------------------------------------------------------------
def clip_limits(x: Tensor, bits: int) -> dict[str, float]:
    """The reference solution of exercise 5.2."""
    return _limits(x, bits)


def _limits(
    x: Tensor,
    bits: int,
    *,
    signed_largest: bool = False,
    signed_quantile: bool = False,
    share: float = 0.999,
    between: bool = True,
    clip: bool = True,
    narrow: bool = False,
    power: float = 2.0,
    above: int = 0,
    gives_error: bool = False,
) -> dict[str, float]:
    """Return the three limits. Options make the known mistakes.

    `power` is the exponent to which the errors are raised, and `above` is added to the highest integer.
    """
    magnitude = x.abs().flatten()
    largest = float(magnitude.max())
    sizes = (x.flatten() if signed_quantile else magnitude).sort().values
    found = {
        "min-max": float(x.max()) if signed_largest else largest,
        "percentile": float(torch.quantile(sizes, share) if between else sizes[int(share * len(sizes))]),
    }
    highest, errors = 2 ** (bits - 1) - 1 + above, []
    limits = [largest * k / STEPS for k in range(1, STEPS + 1)]
    for limit in limits:
        scale = limit / highest or 1.0
        integers = (x.double() / scale).round()
        integers = integers.clamp(-highest if narrow else -highest - 1, highest) if clip else integers
        errors.append(float((integers * scale - x.double()).abs().pow(power).mean()))
    best = min(range(STEPS), key=errors.__getitem__)
    return {**found, "mse": errors[best] if gives_error else limits[best]}


CLIP_LIMITS_ANSWER = Answer(
    exercise=CLIP_LIMITS,
    reference=clip_limits,
    comparison=Comparison(relative=1e-3),
    mistakes=(
        Mistake(
            "min-max: take the largest magnitude; you take the largest number, but a negative one may be larger in magnitude.",
            partial(_limits, signed_largest=True),
        ),
        Mistake(
            "percentile: take the quantile of the magnitudes, not of the numbers themselves.",
            partial(_limits, signed_quantile=True),
        ),
        Mistake("percentile: 99.9 % is the quantile 0.999; you take 0.99.", partial(_limits, share=0.99)),
        Mistake(
            "percentile: you take one of the magnitudes, but the quantile is between two of them: see torch.quantile.",
            partial(_limits, between=False),
        ),
        Mistake(
            "mse: the lowest integer is -128 for 8 bits, one step beyond the negative limit; you clip at -127.",
            partial(_limits, narrow=True),
        ),
        Mistake(
            "mse: numbers beyond the limit must be clipped. Without clipping, the smallest limit always seems best.",
            partial(_limits, clip=False),
        ),
        Mistake("mse: square the differences; you take their magnitudes.", partial(_limits, power=1.0)),
        Mistake(
            "mse: the limit corresponds to the highest integer, 127 for 8 bits; you divide by one more.",
            partial(_limits, above=1),
        ),
        Mistake("mse: return the limit with the smallest error, not the error.", partial(_limits, gives_error=True)),
    ),
    names={"['mse']": 'the error of x with your limit "mse"', "['min-max']": "min-max", "['percentile']": "percentile"},
)


# 5.3 ------------------------------------------------------------------------------------------------------------------
def clip_divergence(counts: Tensor, kept: int, levels: int) -> float:
    """The reference solution of exercise 5.3."""
    return _divergence(counts, kept, levels)


def _divergence(
    counts: Tensor,
    kept: int,
    levels: int,
    *,
    tail_in_p: bool = True,
    tail_in_q: bool = False,
    only_used: bool = True,
    swapped: bool = False,
    shares: bool = True,
    base_two: bool = False,
) -> float:
    """Return the divergence that a limit causes. Options make the known mistakes."""
    kept_counts = counts[:kept].double()
    p = kept_counts.clone()
    if tail_in_p:
        p[-1] += counts[kept:].double().sum()
    groups = (p if tail_in_q else kept_counts).view(levels, -1)
    used = (groups > 0) if only_used else torch.ones_like(groups)
    q = (groups.sum(1, keepdim=True) / used.sum(1, keepdim=True).clamp_min(1) * used).flatten()
    if shares:
        p, q = p / p.sum(), q / q.sum()
    if swapped:
        p, q = q, p
    inside = p > 0
    ratio = (p[inside] / q[inside].clamp_min(1e-10)).log()
    return float((p[inside] * ratio).sum()) / (0.6931471805599453 if base_two else 1.0)


CLIP_DIVERGENCE_ANSWER = Answer(
    exercise=CLIP_DIVERGENCE,
    reference=clip_divergence,
    comparison=Comparison(relative=1e-3),
    mistakes=(
        Mistake(
            "The counts beyond the limit are missing from P: add them to its last bin. Otherwise clipping seems to "
            "cost nothing.",
            partial(_divergence, tail_in_p=False),
        ),
        Mistake(
            "Q contains the counts beyond the limit, but a quantized tensor keeps only the numbers within the limit.",
            partial(_divergence, tail_in_q=True),
        ),
        Mistake("Spread the sum of a group only over its bins that are not empty.", partial(_divergence, only_used=False)),
        Mistake("You swapped P and Q: the sum is over P log(P / Q).", partial(_divergence, swapped=True)),
        Mistake("Divide P and Q by their sums first, so that they are shares.", partial(_divergence, shares=False)),
        Mistake("Use the natural logarithm; you use the logarithm to base 2.", partial(_divergence, base_two=True)),
    ),
)
ANSWERS = (CLIP_LIMITS_ANSWER, CLIP_DIVERGENCE_ANSWER)
