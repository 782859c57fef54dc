"""Finds the efficiencies from measurements (least squares of the logarithms), and predicts seconds with an interval.

The fit has as many unknowns as `Efficiencies` has numbers. Each unknown is held near its typical value, so that two or three
measurements are enough to start with. If a prediction is outside the range of the measurements, its interval is wider, and
`Prediction.beyond` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from labkit.errors import InvalidRequest
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import GPU_WIDTHS, NAMES, Efficiencies, as_vector, moved
from labkit.planning.latency import Parts, decode_parts, prefill_parts, request_parts

Array: TypeAlias = np.ndarray[Any, Any]

ROW_SPREAD = 0.15
"""How far a single measurement is from the prediction of a correct model, as a standard deviation of the logarithm.

The larger `ROW_SPREAD` is, the closer a fit stays to the typical values.
"""
LEAST_SPREAD = 0.05
"""The smallest standard deviation (of the logarithm) of a prediction.

Different clock rates and software versions alone cause differences of this size.
"""
WIDER_PER_FACTOR = 0.15
"""How much the standard deviation grows for each factor of e by which a prediction is outside the measured range."""
TWO_SIDED_90 = 1.645
"""An interval of this many standard deviations on each side contains 90 % of a normal distribution."""
WHATS: dict[str, Callable[[Deployment, Efficiencies], Parts]] = {
    "request": request_parts,
    "prefill": prefill_parts,
    "decode": decode_parts,
}
"""The function that predicts the timed part of a measurement: the whole request, the prefill, or one decode step."""


@dataclass(frozen=True)
class Measurement:
    """The measured seconds of a deployment."""

    plan: Deployment
    seconds: float
    what: str = "request"


@dataclass(frozen=True)
class Prediction:
    """Predicted seconds with an interval that should contain nine of ten measurements.

    `beyond`: the properties of the deployment that are outside the measured range, in words.
    """

    seconds: float
    low: float
    high: float
    parts: Parts
    beyond: tuple[str, ...] = ()

    @property
    def dominated_by(self) -> str:
        """The name of the part that takes the most time."""
        return self.parts.dominated_by


def features(plan: Deployment) -> dict[str, float]:
    """The sizes for which a fit stores the measured range."""
    return {
        "parameters per GPU": plan.shape.parameter_count / plan.ranks,
        "hidden size": float(plan.shape.hidden_size),
        "batch": float(plan.batch),
        "input tokens": float(plan.input_tokens),
        "output tokens": float(plan.output_tokens),
        "tensor_parallel": float(plan.tensor_parallel),
        "pipeline_parallel": float(plan.pipeline_parallel),
    }


def kinds(plan: Deployment) -> set[str]:
    """The properties of a plan that are not numbers. A fit stores which of these properties its measurements had."""
    return {f"GPU {plan.device.name}", f"precision {plan.precision}"} | ({"2:4 sparsity"} if plan.sparse else set())


@dataclass(frozen=True)
class Fit:
    """Efficiencies with their uncertainty. `covariance` is the covariance of their logarithms.

    `spread` is the error on rows that were left out of the fit.
    """

    found: Efficiencies
    covariance: Array
    spread: float
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    rows: int = 0
    source: str = ""

    def predict(self, plan: Deployment, what: str = "request") -> Prediction:
        """Predict the seconds of a deployment."""
        parts = WHATS[what](plan, self.found)
        slope = slopes(plan, what, self.found)
        beyond, distance = self.beyond(plan)
        variance = max(self.spread, LEAST_SPREAD) ** 2 + float(slope @ self.covariance @ slope)
        width = TWO_SIDED_90 * math.sqrt(variance + (WIDER_PER_FACTOR * distance) ** 2)
        seconds = float(parts.total)
        return Prediction(seconds, seconds * math.exp(-width), seconds * math.exp(width), parts, tuple(beyond))

    def beyond(self, plan: Deployment) -> tuple[list[str], float]:
        """Return, in words, what is outside the measured range, and the sum of the distances (logarithms of factors)."""
        words, distance = [], 0.0
        for name, value in features(plan).items():
            low, high = self.ranges.get(name, (value, value))
            if not low <= value <= high:
                far = math.log(value / high if value > high else low / value)
                distance += far
                words.append(f"{name} {value:.4g} is outside {low:.4g} to {high:.4g}")
        for kind in sorted(kinds(plan) - self.seen):
            distance += 1.0
            words.append(f"{kind} was not measured")
        return words, distance

    def to_dict(self) -> dict[str, Any]:
        """The fit as plain values, which `from_dict` can read."""
        return {
            "found": self.found.to_dict(),
            "covariance": [[float(f"{value:.6g}") for value in row] for row in self.covariance],
            "spread": self.spread,
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "seen": sorted(self.seen),
            "rows": self.rows,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Fit:
        """Make a fit from the plain values that `to_dict` returns."""
        return cls(
            found=Efficiencies(**values["found"]),
            covariance=np.array(values["covariance"], dtype=np.float64),
            spread=float(values["spread"]),
            ranges={name: (float(low), float(high)) for name, (low, high) in values["ranges"].items()},
            seen=frozenset(values["seen"]),
            rows=int(values["rows"]),
            source=str(values["source"]),
        )


STEP = 1e-4
"""The step of numeric derivatives, in logarithms."""


def _columns(start: Efficiencies, logs: Array) -> Efficiencies:
    """Efficiencies as arrays of 13 values: at `logs`, and with each of the 12 logarithms in turn increased by a step."""
    table = np.repeat(logs[:, None], len(NAMES) + 1, axis=1)
    table[np.arange(len(NAMES)), np.arange(1, len(NAMES) + 1)] += STEP
    return moved(start, table)


def slopes(plan: Deployment, what: str, found: Efficiencies) -> Array:
    """Derivatives of the logarithm of the seconds with respect to the logarithm of each efficiency, [12] float64."""
    logs = np.log(WHATS[what](plan, _columns(found, np.zeros(len(NAMES)))).total)
    return np.asarray((logs[1:] - logs[0]) / STEP)


def fit(
    rows: Sequence[Measurement], *, start: Efficiencies | None = None, widths: Efficiencies = GPU_WIDTHS, source: str = ""
) -> Fit:
    """Fit the efficiencies to measurements (Levenberg-Marquardt method). Raises `InvalidRequest` if there are no rows."""
    if not rows:
        raise InvalidRequest("no measurement was given; a fit needs at least one row")
    start = start or Efficiencies()
    target = np.log([row.seconds for row in rows])
    pull = ROW_SPREAD / as_vector(widths)

    def residuals(logs: Array) -> tuple[Array, Array]:
        columns = _columns(start, logs)
        table = np.array([np.log(WHATS[row.what](row.plan, columns).total) for row in rows])
        slope = (table[:, 1:] - table[:, :1]) / STEP
        return np.concatenate([table[:, 0] - target, pull * logs]), np.concatenate([slope, np.diag(pull)])

    logs, (error, slope) = _descend(residuals)
    count = len(rows)
    spread = float(np.sqrt(np.mean(error[:count] ** 2)))
    covariance = np.linalg.inv(slope.T @ slope) * ROW_SPREAD**2
    ends: dict[str, list[float]] = {}
    for row in rows:
        for name, value in features(row.plan).items():
            ends.setdefault(name, []).append(value)
    return Fit(
        found=Efficiencies(**moved(start, logs).to_dict()),
        covariance=covariance,
        spread=spread,
        ranges={name: (min(values), max(values)) for name, values in ends.items()},
        seen=frozenset().union(*(kinds(row.plan) for row in rows)),
        rows=count,
        source=source,
    )


def _descend(residuals: Callable[[Array], tuple[Array, Array]]) -> tuple[Array, tuple[Array, Array]]:
    """Return the logarithms that minimize the sum of squared residuals, and the residuals and slopes at this point."""
    logs, damping = np.zeros(len(NAMES)), 1e-3
    error, slope = residuals(logs)
    for _ in range(60):
        normal = slope.T @ slope
        move = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -slope.T @ error)
        tried = residuals(logs + move)
        if float(tried[0] @ tried[0]) < float(error @ error):
            small = float(np.abs(move).max()) < 1e-4
            logs, (error, slope), damping = logs + move, tried, damping / 4
            if small:
                break
        elif damping > 1e6:
            break
        else:
            damping *= 8
    return logs, (error, slope)


def errors(found: Fit, rows: Sequence[Measurement]) -> list[float]:
    """Relative errors of the predictions: 0.1 means that the predicted time is 10 % too long."""
    return [float(WHATS[row.what](row.plan, found.found).total) / row.seconds - 1 for row in rows]


def with_spread_of_left_out(rows: Sequence[Measurement], group: Callable[[Measurement], str], **settings: Any) -> Fit:
    """Fit all rows. `spread` becomes the error of predicting each group of rows from a fit to the other groups.

    The error on fitted rows would underestimate the error on a model of another size. If there is only one group, `spread` is
    the error on the fitted rows.
    """
    whole = fit(rows, **settings)
    groups = sorted({group(row) for row in rows})
    if len(groups) < 2:
        return whole
    logs: list[float] = []
    for left in groups:
        others = fit([row for row in rows if group(row) != left], **settings)
        logs += [math.log1p(error) for error in errors(others, [row for row in rows if group(row) == left])]
    return replace(whole, spread=float(np.sqrt(np.mean(np.square(logs)))))
