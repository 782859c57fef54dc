"""Arrival times of independent requests: a Poisson process."""

from __future__ import annotations

import random


def poisson_arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Return arrival times in seconds from the start, in rising order and below `seconds`; on average `rate` per second.

    The gaps are independent and exponentially distributed, as with many users who do not know one another.
    """
    source = random.Random(f"arrivals {seed}")
    moments, moment = [], source.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += source.expovariate(rate)
    return moments
