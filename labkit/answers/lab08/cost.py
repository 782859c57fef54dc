"""The answers to exercises 8.7 and 8.8: references, comparisons and known mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab08.cost import INSTANCES_NEEDED, PRICE_PER_MILLION


# 8.7 ------------------------------------------------------------------------------------------------------------------
def price_per_million(price: float, gpus: int, tokens_per_second: float, busy: float) -> float:
    """The reference solution of exercise 8.7."""
    return _price(price, gpus, tokens_per_second, busy)


def _price(
    price: float,
    gpus: int,
    tokens_per_second: float,
    busy: float,
    *,
    gpus_paid: Callable[[int], int] = lambda gpus: gpus,
    seconds: float = 3600,
    idle: Callable[[float], float] = lambda busy: 1 / busy,
    tokens: float = 1e6,
) -> float:
    """Return the price. There is an option for each factor; a known mistake sets some options to wrong values."""
    return price * gpus_paid(gpus) / seconds / tokens_per_second * idle(busy) * tokens


PRICE_PER_MILLION_ANSWER = Answer(
    exercise=PRICE_PER_MILLION,
    reference=price_per_million,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The number of GPUs does not change your price: you pay for one GPU, or you count the tokens of each GPU. "
            "You pay for "
            "all GPUs, and `tokens_per_second` counts the tokens of all GPUs together.",
            partial(_price, gpus_paid=lambda gpus: 1),
        ),
        Mistake(
            "You count the GPUs twice: `tokens_per_second` already counts the tokens of all GPUs together.",
            partial(_price, gpus_paid=lambda gpus: gpus * gpus),
        ),
        Mistake("An hour has 3600 seconds; you count 60.", partial(_price, seconds=60)),
        Mistake("You take the price for a second; it is for an hour.", partial(_price, seconds=1)),
        Mistake("Idle GPUs cost as much as busy ones; you count only the busy time.", partial(_price, idle=lambda busy: 1.0)),
        Mistake(
            "If the GPUs are idle half of the time, a token costs twice as much; yours costs half as much.",
            partial(_price, idle=lambda busy: busy),
        ),
        Mistake("That is the price of one token; return the price of a million tokens.", partial(_price, tokens=1)),
        Mistake("That is the price of a thousand tokens; return the price of a million.", partial(_price, tokens=1e3)),
    ),
)


# 8.8 ------------------------------------------------------------------------------------------------------------------
def instances_needed(requests_per_day: int, peak: float, per_instance: float, most_busy: float, spare: int) -> int:
    """The reference solution of exercise 8.8."""
    return int(_instances(requests_per_day, peak, per_instance, most_busy, spare))


def _instances(
    requests_per_day: int,
    peak: float,
    per_instance: float,
    most_busy: float,
    spare: int,
    *,
    with_peak: bool = True,
    with_busy: str = "divide",
    with_spare: bool = True,
    rounded: Callable[[float], float] = math.ceil,
    day: float = 86_400,
) -> float:
    """Return the number of instances. There is an option for each step of the calculation.

    A known mistake sets some options to wrong values.
    """
    rate = requests_per_day / day * (peak if with_peak else 1)
    share = {"divide": most_busy, "ignore": 1.0, "multiply": 1 / most_busy}[with_busy]
    return rounded(rate / (per_instance * share)) + (spare if with_spare else 0)


INSTANCES_NEEDED_ANSWER = Answer(
    exercise=INSTANCES_NEEDED,
    reference=instances_needed,
    comparison=Comparison(),
    mistakes=(
        Mistake("You size the servers for the average; the busiest time needs more.", partial(_instances, with_peak=False)),
        Mistake("Your instances are busy all the time, and queues grow without end.", partial(_instances, with_busy="ignore")),
        Mistake(
            "An instance that may be busy only part of the time answers fewer requests, so you need more of them.",
            partial(_instances, with_busy="multiply"),
        ),
        Mistake("The spare instances are missing.", partial(_instances, with_spare=False)),
        Mistake(
            "You round down; the requests of the last fraction also need an instance.", partial(_instances, rounded=math.floor)
        ),
        Mistake(
            "You round to the nearest number; a fraction of an instance needs a whole one.", partial(_instances, rounded=round)
        ),
        Mistake(
            "If the division gives a whole number, it is enough, and only the spare instances are added. You add one more.",
            partial(_instances, rounded=lambda count: math.floor(count) + 1),
        ),
        Mistake("A fraction of an instance cannot run: round up to a whole number.", partial(_instances, rounded=float)),
        Mistake("A day has 86,400 seconds; you use its minutes.", partial(_instances, day=1440)),
        Mistake("A day has 86,400 seconds; you use the seconds of an hour.", partial(_instances, day=3600)),
        Mistake("A day has 86,400 seconds; you use its hours.", partial(_instances, day=24)),
        Mistake("Your requests are for a whole day; divide them by its seconds.", partial(_instances, day=1)),
    ),
)
ANSWERS = (PRICE_PER_MILLION_ANSWER, INSTANCES_NEEDED_ANSWER)
