"""How far a prediction was from what was measured, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

PREDICTION = "your prediction"
MEASURED = ("measured", "counted", "profiled")
"""What figures call the two things that are compared."""
CLOSE = 1.1
"""Up to this factor a prediction counts as right."""


def how_far(guess: float, measured: float) -> str:
    """ "3.4 times too high", for example; empty if there is nothing to compare: a NaN, or a sign that differs."""
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
    """A sentence on a figure's series "your prediction"; empty if the figure has no such series, or none that was measured."""
    measured = next((series[name] for name in MEASURED if name in series), ())
    found = [
        (name, said)
        for name, guess, value in zip(names, series.get(PREDICTION, ()), measured, strict=False)
        if (said := how_far(guess, value))
    ]
    if len(names) == 1 and found:
        return f"Your prediction was {found[0][1]}."
    return f"Your predictions: {'; '.join(f'{name}: {said}' for name, said in found)}." if found else ""
