"""Delayed scaling of FP8: the scale of a tensor comes from its magnitudes in earlier steps.

This is the recipe of NVIDIA's Transformer Engine (`DelayedScaling`:
https://docs.nvidia.com/deeplearning/transformer-engine/user-guide/examples/fp8_primer.html). To scale a tensor by its own
largest magnitude ("amax"), a kernel must read it twice. If the scale is already known, a kernel reads the tensor once: it casts
the numbers and finds the amax for the next steps. The disadvantage is that a tensor with much larger numbers than before is
clipped until its amax is in the history.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from labkit.errors import InvalidRequest
from labkit.weight_formats.rounded_inputs import E4M3, Fp8Form

ALGORITHMS: dict[str, Callable[[Iterable[float]], float]] = {"max": max, "most_recent": lambda history: next(iter(history))}
"""The functions that choose one amax from the history, by name. The first entry of the history is from the newest step."""


@dataclass
class DelayedScaling:
    """Chooses the scale of one tensor again after each step.

    form: `E4M3`, or `E5M2`, which Transformer Engine's format HYBRID uses for gradients. history_length: how many steps the
    history holds (`amax_history_len`). algorithm: "max" or "most_recent" (`amax_compute_algo`). margin: the scale is divided by
    2^margin, which leaves room for larger tensors.
    """

    form: Fp8Form = E4M3
    history_length: int = 1024
    algorithm: str = "max"
    margin: int = 0
    scale: float = 1.0
    history: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise InvalidRequest(f"algorithm is {self.algorithm!r}; {' and '.join(ALGORITHMS)} are accepted")
        if self.history_length < 1:
            raise InvalidRequest(f"history_length is {self.history_length}; a number of at least 1 is accepted")
        self.history = deque(maxlen=self.history_length)

    def cast(self, x: Tensor) -> tuple[Tensor, float]:
        """Cast a tensor with the scale from earlier steps, and add its amax to the history.

        Returns the FP8 numbers, and the factor that converts them back: x is close to numbers * factor. Scaled magnitudes above
        the largest FP8 number are clipped to it. The call also computes the scale for the next step.
        """
        scale = self.scale
        cast = (x.float() * scale).clamp(-self.form.largest, self.form.largest).to(self.form.dtype)
        self.history.appendleft(float(x.abs().amax()) if x.numel() else 0.0)
        self._update()
        return cast, 1 / scale

    def _update(self) -> None:
        """Set scale = largest FP8 number / amax / 2^margin. If amax is 0 or not finite, the scale does not change."""
        amax = ALGORITHMS[self.algorithm](self.history)
        if amax > 0 and math.isfinite(amax):
            self.scale = self.form.largest / amax / 2**self.margin


def clipped_share(x: Tensor, scaling: DelayedScaling) -> float:
    """The share of the numbers in `x` that the current scale would clip."""
    return float((x.abs() * scaling.scale > scaling.form.largest).to(torch.float32).mean()) if x.numel() else 0.0
