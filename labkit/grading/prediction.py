"""Predictions: a learner writes down a number before the cell that measures it."""

from __future__ import annotations

import math
from typing import Any


def predicted(*, as_share: bool = False, as_percent: bool = False, at_most: float = math.inf, **guesses: Any) -> bool:
    """Whether every guess is a positive number. If a guess is missing, a message asks for it. A cell calls this function before
    it measures something.

    If `as_share` is set, a guess must be from 0 to 1; if `as_percent` is set, it must be from 0 to 100. Both ends are allowed.
    `at_most` is the largest possible number, if the learner has been told this number (such as the number of kernels before any
    kernel is removed). No other range is required, because a range would give away the order of magnitude. The figure of the
    measurement shows by how much the guess was wrong (`labkit.measure.how_far`).
    """
    least, most, asked = math.ulp(0.0), math.inf, "a number above 0"
    if at_most < math.inf:
        most, asked = at_most, f"a number above 0 and at most {at_most:,.4g}"
    if as_share:
        least, most, asked = 0, 1, "a share from 0 to 1 (a half is 0.5, not 50)"
    elif as_percent:
        least, most, asked = 0, 100, "a percentage from 0 to 100 (a half is 50, not 0.5)"
    open_ones = [name for name, value in guesses.items() if not _is_number(value) or not least <= value <= most]
    if open_ones:
        print(f"Write down your prediction first: {', '.join(open_ones)}, {asked}. A wrong prediction teaches more than none.")
    return not open_ones


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
