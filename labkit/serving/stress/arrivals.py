"""When requests come that do not wait for one another: a Poisson process."""

from __future__ import annotations

import random


def poisson_arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Moments in seconds from the beginning, rising, below `seconds`; `rate` of them a second on average.

    The gaps are independent and exponential, so that how many come in a second scatters as it does with many strangers.
    """
    source = random.Random(f"arrivals {seed}")
    moments, moment = [], source.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += source.expovariate(rate)
    return moments
