"""Confidence intervals of ratios, found by resampling the windows of a text (percentile bootstrap, Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A measured value and the ends of its 95 % interval. `low` and `high` are None if there was nothing to resample."""

    value: float
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | list[float] | None]:
        """Return the value and its interval as plain values, for a JSON record."""
        return {"value": self.value, "interval": None if self.low is None or self.high is None else [self.low, self.high]}


class Bootstrap:
    """Random samples of a text's windows. Each sample is `windows` windows, drawn with replacement.

    All estimates of one object use the same samples, which depend only on `seed`.
    """

    def __init__(self, windows: int, seed: int) -> None:
        generator, shape = torch.Generator("cpu").manual_seed(seed), (RESAMPLES, windows)
        self._draws = torch.randint(windows, shape, generator=generator, dtype=torch.int64, device="cpu")
        self._windows = windows

    def ratio(self, sums: Tensor, counts: Tensor, transform: Callable[[Tensor], Tensor] = lambda ratio: ratio) -> Estimate:
        """Estimate `transform(sums.sum() / counts.sum())`. `sums` and `counts` have shape `[windows]` and are float64.

        `transform` works elementwise. A text of one window has no interval. Samples without counts are left out: they have no
        ratio.
        """
        value = float(transform(sums.sum() / counts.sum()))
        if self._windows < 2:
            return Estimate(value)
        drawn_counts = counts[self._draws].sum(1)
        counted = drawn_counts > 0
        drawn = transform(sums[self._draws].sum(1)[counted] / drawn_counts[counted])
        low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
        return Estimate(value, low, high)
