"""Calibrators: each chooses, from a histogram of magnitudes, the magnitude "amax" that the largest 8-bit number stands for.

Magnitudes above amax are clipped. A small amax gives fine steps but clips many numbers; a large amax clips few numbers but
gives coarse steps. The four calibrators come from TensorRT's tools: S. Migacz: 8-bit Inference with TensorRT (GTC 2017), and H.
Wu et al.: Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation (2020),
https://arxiv.org/abs/2004.09602.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.compress.magnitudes import Magnitudes
from labkit.errors import InvalidRequest
from labkit.weight_formats.rounded_inputs import Fp8Form

PERCENTILE = 99.99
"""`percentile` leaves this percentage of all magnitudes unclipped."""
LEVELS = 128
"""The number of magnitudes that int8 can store: 0 to 127."""
CANDIDATES = 128
"""The number of values of amax that `mse` and `entropy` compare."""


def minmax(found: Magnitudes) -> float:
    """The largest magnitude that occurred. No number is clipped."""
    return found.largest


def percentile(found: Magnitudes) -> float:
    """The `PERCENTILE`-th percentile of the magnitudes."""
    shares = found.counts.cumsum(0) / found.counts.sum()
    return float(found.edges[int((shares < PERCENTILE / 100).sum())])


def mse(found: Magnitudes, form: Fp8Form | None = None) -> float:
    """The amax with the smallest mean squared error of rounding and clipping together.

    The numbers are rounded to the FP8 format `form`, or to int8 if `form` is None.
    """
    centers = found.edges - 0.5 * found.edges[0]
    most = form.largest if form else LEVELS - 1

    def error(amax: float) -> float:
        scale = amax / most
        scaled = (centers / scale).clamp(max=most)
        rounded = (scaled.float().to(form.dtype).double() if form else scaled.round()) * scale
        return float((found.counts * (rounded - centers).square()).sum())

    return min(_candidates(found), key=error)


def entropy(found: Magnitudes) -> float:
    """The amax for which the distribution of the magnitudes after rounding to int8 is closest to the original distribution.

    The distance is the Kullback-Leibler divergence. For each candidate, the counts of larger magnitudes are added to the last
    bin below the candidate, because these magnitudes will be clipped. For the rounded distribution, the bins below the
    candidate are merged into `LEVELS` levels. The count of each level is spread evenly over those bins of the level that were
    not empty.
    """
    width = float(found.edges[0])

    def divergence(amax: float) -> float:
        bins = max(round(amax / width), LEVELS)
        kept = found.counts[:bins]
        clipped = kept.clone()
        clipped[-1] += found.counts[bins:].sum()
        return _divergence(clipped, _merged(kept))

    return min((amax for amax in _candidates(found) if amax >= LEVELS * width), key=divergence)


CALIBRATORS: dict[str, Callable[[Magnitudes], float]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
"""The calibrators by name."""


def calibrator_named(name: str, form: Fp8Form | None = None) -> Callable[[Magnitudes], float]:
    """The calibrator with this name, for numbers that are rounded to the FP8 format `form`, or to int8 if `form` is None.

    Raises `InvalidRequest` for an unknown name, and for entropy with FP8.
    """
    if name not in CALIBRATORS:
        raise InvalidRequest(f"calibrator is {name!r}; {', '.join(CALIBRATORS)} are accepted")
    if form and name == "entropy":
        accepted = ", ".join(each for each in CALIBRATORS if each != name)
        raise InvalidRequest(f"calibrator is {name!r}, which counts the equal steps of int8; for fp8, {accepted} are accepted")
    return partial(mse, form=form) if name == "mse" else CALIBRATORS[name]


def _candidates(found: Magnitudes) -> list[float]:
    """Values of amax from the largest magnitude down to a hundredth of it, evenly spaced on a logarithmic scale."""
    exponents = torch.linspace(0, -2, CANDIDATES, dtype=torch.float64, device="cpu")
    return [(found.largest or 1.0) * ratio for ratio in (10**exponents).tolist()]


def _merged(counts: Tensor) -> Tensor:
    """The histogram `counts` after rounding to `LEVELS` levels, with the same bins as before."""
    level = torch.arange(len(counts), dtype=torch.int64, device="cpu") * LEVELS // len(counts)
    there = (counts > 0).double()
    totals = torch.zeros(LEVELS, dtype=torch.float64, device="cpu").index_add(0, level, counts)
    filled = torch.zeros(LEVELS, dtype=torch.float64, device="cpu").index_add(0, level, there)
    return (totals / filled.clamp_min(1))[level] * there


def _divergence(counts: Tensor, other: Tensor) -> float:
    """The Kullback-Leibler divergence of `counts` from `other`; each histogram is first divided by its sum."""
    p, q = counts / counts.sum(), other / other.sum().clamp_min(1e-30)
    q = q.clamp_min(1e-12)  # only the last bin, which holds the clipped numbers, can be empty in q but not in p
    return float(torch.special.xlogy(p, p / q)[p > 0].sum())
