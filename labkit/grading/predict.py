"""Predictions: a learner writes down a number before the cell that measures it."""

from __future__ import annotations

import math
from typing import Any


def predicted(**guesses: Any) -> bool:
    """Whether every guess is a positive number; if not, ask for those that are not (for cells that measure)."""
    open_ones = [name for name, value in guesses.items() if not _is_guess(value)]
    if open_ones:
        print(
            f"Write down your prediction first: {', '.join(open_ones)}, a number above 0. A wrong one teaches more than none."
        )
    return not open_ones


def _is_guess(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
