"""Describes in words how far a prediction was from the measured value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

PREDICTION = "your prediction"
MEASURED = ("measured", "counted", "profiled")
"""In a figure, a predicted value is called `PREDICTION`, and a measured value has one of the names in `MEASURED`."""
CLOSE = 1.1
"""A prediction that differs from the measured value by at most this factor counts as right."""
FAR = 100
"""A prediction that differs from the measured value by more than this factor is not drawn to scale."""
AGAIN = f" That is off by a factor of more than {FAR}: write down a more plausible number, and run the cell again."


def how_far(guess: float, measured: float) -> str:
    """Say in words how far a guess is from the measured value, for example "3.4 times too high".

    The result is "" if the values cannot be compared, because one of them is not finite or their signs differ.
    """
    if not (math.isfinite(guess) and math.isfinite(measured)) or guess * measured < 0:
        return ""
    if guess == measured:
        return "exactly right"
    if guess == 0 or measured == 0:
        return f"too {'high' if abs(guess) > abs(measured) else 'low'}: {guess:.3g} for {measured:.3g}"
    factor = max(guess / measured, measured / guess)
    if factor <= CLOSE:
        return f"right within {100 * (CLOSE - 1):.0f} %"
    times = f"{factor:,.0f}" if factor >= 20 else f"{factor:.2g}"
    return f"{times} times too {'high' if abs(guess) > abs(measured) else 'low'}"


def is_far(guess: float, measured: float) -> bool:
    """Whether a prediction is too far from the measured value to be drawn to scale."""
    if not (math.isfinite(guess) and math.isfinite(measured)) or guess * measured <= 0:
        return False
    return max(guess / measured, measured / guess) > FAR


def predictions_in_words(names: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Say in words how far the predictions in a figure are from the measured values.

    The result is "" if the figure has no series "your prediction" or no measured series. If a prediction is far from the
    measured value, the text also asks for a more plausible prediction.
    """
    measured = measured_of(series)
    pairs = list(zip(names, series.get(PREDICTION, ()), measured, strict=False))
    found = [(name, said) for name, guess, value in pairs if (said := how_far(guess, value))]
    if not found:
        return ""
    again = AGAIN if any(is_far(guess, value) for _, guess, value in pairs) else ""
    if len(names) == 1:
        return f"Your prediction was {found[0][1]}.{again}"
    return f"Your predictions: {'; '.join(f'{name}: {said}' for name, said in found)}.{again}"


def measured_of(series: Mapping[str, Sequence[float]]) -> Sequence[float]:
    """Return the measured values with which the predictions of a figure are compared, or `()` if there are none."""
    return next((series[name] for name in MEASURED if name in series), ())
