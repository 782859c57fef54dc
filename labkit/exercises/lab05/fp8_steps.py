"""Simulates training steps in which the numbers of a tensor grow, so that its FP8 scale must grow with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from labkit.exercises.lab05.tensors import inputs

GROWTH = 1.12
"""The factor by which the numbers grow in each step."""
SPIKE_AT, SPIKE = 12, 6.0
"""The step in which the numbers are suddenly larger, and the factor by which they are larger."""
ROWS = 16
"""The number of tokens in a step."""


def follow(fp8_cast: Callable[..., Any], steps: int = 24, length: int = 4) -> dict[str, list[float]]:
    """Cast the inputs of fc_out step by step with a learner's function. Each step gets the history that the last step returned.

    Returns for each step: the largest magnitude of x, the largest magnitude that can be represented with the scale, and the
    relative error in percent.
    """
    x, dtype = inputs(1)["mlp.fc_out"], torch.float8_e4m3fn
    most = torch.finfo(dtype).max
    history = x[:ROWS].abs().max().repeat(length)
    found: dict[str, list[float]] = {"largest of x": [], "largest that fits": [], "error in %": []}
    for step in range(steps):
        now = x[ROWS * step : ROWS * (step + 1)] * GROWTH**step * (SPIKE if step == SPIKE_AT else 1.0)
        values, scale, history = fp8_cast(now, history, dtype)
        found["largest of x"].append(float(now.abs().max()))
        found["largest that fits"].append(most / scale)
        found["error in %"].append(100 * float((values - now).norm() / now.norm()))
    return found
