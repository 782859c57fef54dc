"""The answer to exercise 7.6: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab07.pipelining import PIPELINED_RATE


def pipelined_rate(seconds: list[float], latency: float, users: int, cores: int) -> float:
    """The reference solution of exercise 7.6."""
    return _rate(seconds, latency, users, cores)


def _rate(
    seconds: list[float],
    latency: float,
    users: int,
    cores: int,
    *,
    part: str = "slowest",
    by_users: str = "latency",
    by_cores: str = "all parts",
    lowest: bool = True,
    turned: bool = False,
) -> float:
    """Return the rate. There is an option for each limit; a known mistake sets options to wrong values."""
    whole = sum(seconds)
    taken = {
        "slowest": max(seconds),
        "fastest": min(seconds),
        "mean": whole / len(seconds),
        "one after another": whole,
        "first": seconds[0],
        "not at all": 0.0,
    }[part]
    limits = [1 / taken] if taken else []
    limits += {"latency": [users / latency], "computing": [users / whole], "one": [1 / latency], "not at all": []}[by_users]
    limits += {
        "all parts": [cores / whole],
        "latency": [cores / latency],
        "one core": [1 / whole],
        "slowest part": [cores / max(seconds)],
        "not at all": [],
    }[by_cores]
    rate = min(limits) if lowest else max(limits)
    return 1 / rate if turned else rate


PIPELINED_RATE_ANSWER = Answer(
    exercise=PIPELINED_RATE,
    reference=pipelined_rate,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You let one request finish before the next begins. In a pipeline the parts work at the same time, on different "
            "requests.",
            partial(_rate, part="one after another"),
        ),
        Mistake(
            "You take the mean of the parts, but a chain is only as fast as its slowest part.", partial(_rate, part="mean")
        ),
        Mistake(
            "You take the fastest part. Requests pile up at the slowest part, so the slowest part decides.",
            partial(_rate, part="fastest"),
        ),
        Mistake("You take the first part; the slowest one may be any of them.", partial(_rate, part="first")),
        Mistake("The limit of the parts is missing: each takes one request at a time.", partial(_rate, part="not at all")),
        Mistake(
            "The limit of the users is missing or too high: each user waits for an answer, which takes the latency.",
            partial(_rate, by_users="not at all"),
        ),
        Mistake(
            "You take the computing time as the latency, but the latency also contains transport and queues.",
            partial(_rate, by_users="computing"),
        ),
        Mistake("You count one user only.", partial(_rate, by_users="one")),
        Mistake(
            "The limit of the cores is missing or too high: a request needs the seconds of all parts together, and two parts "
            "cannot compute at the same time on one core.",
            partial(_rate, by_cores="not at all"),
        ),
        Mistake(
            "You divide the cores by the latency. A core is needed only while a part computes, not during transport.",
            partial(_rate, by_cores="latency"),
        ),
        Mistake("You return the highest limit; the lowest one holds.", partial(_rate, lowest=False)),
        Mistake("You return seconds per request; return requests per second.", partial(_rate, turned=True)),
    ),
)
ANSWERS = (PIPELINED_RATE_ANSWER,)
