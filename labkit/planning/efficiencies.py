"""The few numbers that a data sheet does not give: the share of each rate that software achieves, and the cost of each call.

Each number has a typical value and a width (a factor). A fit starts at the typical values and changes them only as far as the
measurements require. So numbers that the measurements do not determine keep their typical values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Efficiencies:
    """The efficiency of software on hardware. The defaults are typical of a GPU.

    `read`: the share of the memory bandwidth that kernels achieve. `compute`: the share of the FLOPs per second that large
    matrix products achieve. `overlap`: the exponent p. If reading alone takes a seconds and computing alone takes b seconds,
    then a matrix product takes (a^p + b^p)^(1/p) seconds. So a larger p means a sharper change from memory-bound to
    compute-bound. `score_passes`: how many times attention scores are moved to or from memory in a prefill.
    `activation_passes`: how many vectors of the hidden size each layer moves to or from memory for each token. `layer_seconds`:
    the time of the launches and gaps of one layer. `step_seconds`: the time of the launches and gaps in the part of a step
    outside the layers. `logit_passes`: how many times 4-byte logits are moved to choose a token. `request_seconds`: the fixed
    cost of one request. `collective_seconds`: the time that software adds to one all-reduce. `hops`: a factor by which the
    link's latency is multiplied. `link`: the share of the link's bandwidth that is achieved.
    """

    read: float = 0.83
    compute: float = 0.65
    overlap: float = 2.0
    score_passes: float = 8.0
    activation_passes: float = 40.0
    layer_seconds: float = 70e-6
    step_seconds: float = 300e-6
    logit_passes: float = 40.0
    request_seconds: float = 2e-3
    collective_seconds: float = 10e-6
    hops: float = 1.0
    link: float = 0.7

    def to_dict(self) -> dict[str, float]:
        """The fields as plain values."""
        return {name: float(getattr(self, name)) for name in NAMES}


NAMES = tuple(field.name for field in fields(Efficiencies))

PERFECT = Efficiencies(
    read=1.0,
    compute=1.0,
    overlap=50.0,
    score_passes=1e-9,
    activation_passes=1e-9,
    layer_seconds=1e-12,
    step_seconds=1e-12,
    logit_passes=1e-9,
    request_seconds=1e-12,
    collective_seconds=1e-12,
    hops=1e-9,
    link=1.0,
)
"""Perfect efficiencies: only bytes and FLOPs take time, as in the roofline model."""

GPU_WIDTHS = Efficiencies(
    read=0.05,
    compute=0.2,
    overlap=0.2,
    score_passes=0.5,
    activation_passes=0.4,
    layer_seconds=0.4,
    step_seconds=1.0,
    logit_passes=0.6,
    request_seconds=1.0,
    collective_seconds=0.5,
    hops=0.4,
    link=0.2,
)
"""How far each number is usually from its typical value, as a standard deviation of its logarithm.

`read` has a small deviation, because even a plain copy hardly exceeds 85 % of the bandwidth on a data sheet (gpt-fast,
pytorch.org/blog/accelerating-generative-ai-2). The typical `layer_seconds` is about the time of 12 kernels of 6 microseconds
each, without a CUDA graph.
"""

CPU = Efficiencies(
    read=0.9,
    compute=0.9,
    overlap=2.0,
    score_passes=2.0,
    activation_passes=20.0,
    layer_seconds=20e-6,
    step_seconds=100e-6,
    logit_passes=4.0,
    request_seconds=1e-4,
    collective_seconds=20e-6,
    link=0.7,
)
"""Typical values of labkit's engine on a CPU. A CPU's rates are measured and do not come from a data sheet."""

CPU_WIDTHS = Efficiencies(
    read=0.15,
    compute=0.2,
    overlap=0.2,
    score_passes=0.7,
    activation_passes=0.7,
    layer_seconds=0.7,
    step_seconds=0.7,
    logit_passes=0.7,
    request_seconds=1.0,
    collective_seconds=0.7,
    hops=0.7,
    link=0.4,
)


def moved(start: Efficiencies, logs: np.ndarray[Any, Any]) -> Efficiencies:
    """Multiply each number of `start` by exp of the number's entry in `logs` ([12] or [12, columns], float64).

    If `logs` has columns, each number becomes an array. The formulas of `latency` then compute all columns at once.
    """
    return Efficiencies(**{name: getattr(start, name) * np.exp(log) for name, log in zip(NAMES, logs, strict=True)})


def as_vector(values: Efficiencies) -> np.ndarray[Any, Any]:
    """The numbers in the order of `NAMES`, [12] float64."""
    return np.array([getattr(values, name) for name in NAMES], dtype=np.float64)
