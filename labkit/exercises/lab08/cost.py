"""Exercises 8.7 and 8.8: the price of a million tokens, and the number of instances that a day's requests need."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise


# 8.7 ------------------------------------------------------------------------------------------------------------------
def _price_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [(2.0, 8, 1000.0, 1.0), (0.1, 1, 300.0, 0.5)]
    rows += [
        (draw.uniform(0.05, 9), draw.choice([2, 4, 8, 16, 24]), draw.uniform(20, 9000), draw.uniform(0.1, 0.9))
        for _ in range(6)
    ]
    return [
        Case(f"{gpus} GPUs at {price:.2f}, {rate:.0f} tokens/s, busy {busy:.0%}", (price, gpus, rate, busy))
        for price, gpus, rate, busy in rows
    ]


PRICE_PER_MILLION = Exercise(
    name="lab08.price_per_million",
    lab="08",
    number="8.7",
    title="The price of a million tokens",
    function="price_per_million",
    statement=(
        "`gpus` GPUs cost `price` each for an hour, whether they work or not. While they work, all of them together make "
        "`tokens_per_second` new tokens per second; they work for the fraction `busy` of the time. Return the price of a million new "
        "tokens."
    ),
    points=8,
    minutes=5,
    difficulty=1,
    cases=_price_cases,
    hints=(
        "What do all GPUs cost in an hour, and how many tokens do they make in that hour?",
        "An hour has 3600 seconds, and the GPUs make tokens only in the busy part of them.",
        "tokens_in_an_hour = 3600 * busy * tokens_per_second",
    ),
)


# 8.8 ------------------------------------------------------------------------------------------------------------------
def _instance_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [(1_000_000, 3.0, 4.1, 0.7, 1), (86_400, 1.0, 0.15, 0.5, 0)]
    rows += [(86_400, 3.0, 2.0, 0.5, 1), (172_800, 4.0, 1.0, 0.5, 2)]  # 3 and 16 instances, without spare, are exactly enough
    for _ in range(7):
        most = draw.uniform(0.4, 0.9)
        per_instance = draw.uniform(0.3, 9)
        wanted = draw.randrange(4, 40) + draw.choice([0.2, 0.3, 0.7, 0.8])  # a number of instances far from any integer
        peak = draw.uniform(1.5, 5)
        rows.append((round(wanted * per_instance * most * 86_400 / peak), peak, per_instance, most, draw.randrange(1, 4)))
    return [
        Case(
            f"{day:,} requests a day, peak {peak:.1f}, {each:.2f} requests/s, busy {most:.0%}, {spare} spare",
            (day, peak, each, most, spare),
        )
        for day, peak, each, most, spare in rows
    ]


INSTANCES_NEEDED = Exercise(
    name="lab08.instances_needed",
    lab="08",
    number="8.8",
    title="Instances for a day",
    function="instances_needed",
    statement=(
        "`requests_per_day` requests arrive in a day. In the busiest time, `peak` times as many per second arrive as on average. An "
        "instance answers `per_instance` requests per second at most, and may be busy for at most the fraction `most_busy` of "
        "the time, so that queues stay short. `spare` more instances run, in case some fail. Return the number of instances."
    ),
    points=10,
    minutes=6,
    difficulty=2,
    cases=_instance_cases,
    hints=(
        "How many requests arrive per second in the busiest time? How many can one instance take?",
        "A day has 86,400 seconds. An instance can take `per_instance` requests per second, times the fraction that it may be "
        "busy. Only whole instances can run; add the spare ones at the end.",
        "busiest = requests_per_day / 86400 * peak",
    ),
)
EXERCISES = (PRICE_PER_MILLION, INSTANCES_NEEDED)
