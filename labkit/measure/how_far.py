"""Says in words how far a prediction was from the measured value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

PREDICTION = "your prediction"
MEASURED = ("measured", "counted", "profiled")
"""The names that figures use for the two values that are compared."""
CLOSE = 1.1
"""A prediction that differs from the measured value by at most this factor counts as right."""


def how_far(guess: float, measured: float) -> str:
    """The result is, for example, "3.4 times too high".

    The result is empty if the values cannot be compared: one is NaN, or their signs differ.
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


def predictions_in_words(names: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """A sentence about a figure's series "your prediction"; empty if the figure lacks this series or a measured one."""
    measured = next((series[name] for name in MEASURED if name in series), ())
    found = [
        (name, said)
        for name, guess, value in zip(names, series.get(PREDICTION, ()), measured, strict=False)
        if (said := how_far(guess, value))
    ]
    if len(names) == 1 and found:
        return f"Your prediction was {found[0][1]}."
    return f"Your predictions: {'; '.join(f'{name}: {said}' for name, said in found)}." if found else ""
