"""The few numbers that a data sheet does not give: what share of each rate is reached, and what each call costs.

Each number has a typical value and a width (a factor). A fit starts at the typical values and moves away from them only as far
as the measurements demand, so numbers that the measurements do not determine stay typical.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Efficiencies:
    """What software reaches on hardware. The defaults are typical of a GPU.

    `read`: share of the memory's rate that kernels reach. `compute`: share of the FLOPs that large matrix products reach.
    `overlap`: how sharply a product turns from memory-bound to compute-bound; its seconds are (a^p + b^p)^(1/p) for reading a
    and computing b. `score_passes`: times that attention scores move to or from memory in a prefill. `activation_passes`: how
    many hidden-size numbers of a token each layer moves to or from memory. `layer_seconds`: launches and gaps of one layer.
    `step_seconds`: the same for one step outside the layers. `logit_passes`: times that 4-byte logits move to choose a token.
    `request_seconds`: the fixed cost of one request. `collective_seconds`: software part of one all-reduce. `hops`: a factor
    of the link's latency. `link`: share of the link's rate.
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
        """Plain values."""
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
"""With these, only bytes and FLOPs take time: the roofline itself."""

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
"""How far each number may be from its typical value, as a standard deviation of its logarithm.

`read` is narrow: a plain copy hardly passes 85 % of the rate on a data sheet (gpt-fast, pytorch.org/blog/accelerating-
generative-ai-2). `layer_seconds` is about 12 kernels of 6 microseconds without a CUDA graph.
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
"""Typical values of labkit's engine on a CPU, whose rates are measured and not those of a data sheet."""

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
    """`start` with each number multiplied by exp of its entry in `logs` ([12] or [12, columns], float64).

    With columns, each number becomes an array. All formulas of `latency` then compute all columns at the same time.
    """
    return Efficiencies(**{name: getattr(start, name) * np.exp(log) for name, log in zip(NAMES, logs, strict=True)})


def as_vector(values: Efficiencies) -> np.ndarray[Any, Any]:
    """The numbers in the order of `NAMES`, [12] float64."""
    return np.array([getattr(values, name) for name in NAMES], dtype=np.float64)
