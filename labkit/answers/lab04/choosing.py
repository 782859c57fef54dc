"""The answer to exercise 4.9: reference, comparison and known mistakes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab04.choosing import CHOOSE_BATCHING
from labkit.plurals import counted

Plan = tuple[int, int, float, float]
"""The number of copies, the batch size, the delay in seconds and the longest latency in seconds."""


def choose_batching(rate: float, first: float, more: float, most: int, bound: float) -> Plan | None:
    """The reference solution of exercise 4.9."""
    return _choose(rate, first, more, most, bound)


def _choose(
    rate: float,
    first: float,
    more: float,
    most: int,
    bound: float,
    *,
    gaps: int = -1,
    waits: float = 1.0,
    copies: Callable[[float], float] = math.ceil,
    order: Callable[[Plan], Any] = lambda plan: (plan[0], plan[3]),
    fits: Callable[[float, float], bool] = lambda latency, bound: latency <= bound,
) -> Plan | None:
    plans: list[Plan] = []
    for batch in range(1, most + 1):
        delay, work = (batch + gaps) / rate, first + more * batch
        latency = waits * delay + work
        if fits(latency, bound):
            plans.append((max(1, int(copies(work * rate / batch - 1e-9))), batch, delay, latency))
    return min(plans, key=order) if plans else None


def _without_waiting(*given: Any) -> Any:
    return _choose(*given, waits=0.0)


def _one_gap_more(*given: Any) -> Any:
    return _choose(*given, gaps=0)


def _half_the_wait(*given: Any) -> Any:
    return _choose(*given, waits=0.5)


def _too_few(*given: Any) -> Any:
    return _choose(*given, copies=math.floor)


def _fastest(*given: Any) -> Any:
    return _choose(*given, order=lambda plan: plan[3])


def _largest(*given: Any) -> Any:
    return _choose(*given, order=lambda plan: -plan[1])


def _no_bound(*given: Any) -> Any:
    return _choose(*given, fits=lambda latency, bound: True)


def _one_copy(*given: Any) -> Any:
    return _choose(*given, copies=lambda needed: 1)


def _no_batch(rate: float, first: float, more: float, most: int, bound: float) -> Any:
    return _choose(rate, first, more, 1, bound)


def _milliseconds(*given: Any) -> Any:
    plan = _choose(*given)
    return plan and (*plan[:2], 1e3 * plan[2], 1e3 * plan[3])


def make_cases(seed: int) -> list[Case]:
    """Make the cases of exercise 4.9: one case of each kind. In none of them can rounding change the answer."""
    draw = random.Random(seed)
    cases: list[Case] = []
    wanted: dict[str, Callable[[Any, Any], bool]] = {
        "batches save copies": lambda plan, lone: plan and lone and plan[1] > 2 and 1 < plan[0] < lone[0],
        "a tight bound": lambda plan, lone: plan and plan[1] > 1 and plan[0] > 2,
        "one copy is enough": lambda plan, lone: plan and plan[0] == 1 and plan[1] > 1,
        "no batch is needed": lambda plan, lone: plan and plan[1] == 1 and plan[0] <= 2,
        "the largest batch is the limit": lambda plan, lone: plan and plan[0] > 1 and plan[1] < 4,
        "out of reach": lambda plan, lone: plan is None,
    }
    for label, is_such in wanted.items():
        while True:
            args = (
                float(draw.choice((20, 40, 50, 80, 125, 200))),
                draw.randint(20, 120) / 1e3,
                draw.randint(1, 9) / 1e3,
                draw.choice((4, 8, 16)),
                draw.randint(60, 420) / 1e3,
            )
            if is_such(_choose(*args), _no_batch(*args)) and _is_clear(*args):
                break
        cases.append(
            Case(
                f"{label}: {args[0]:g} requests/s, {1e3 * args[1]:g} + {1e3 * args[2]:g} ms a batch, bound {1e3 * args[4]:g} "
                f"ms",
                args,
            )
        )
    return cases


def _is_clear(rate: float, first: float, more: float, most: int, bound: float) -> bool:
    """Whether rounding cannot change the answer, because no number is too close to a limit."""
    for batch in range(1, most + 1):
        work = first + more * batch
        copies = work * rate / batch
        if abs(copies - round(copies)) < 1e-3 or abs((batch - 1) / rate + work - bound) < 1e-6:
            return False
    return True


def _explain(case: Case, found: Any, right: Any) -> str:
    rate, first, more, most, bound = case.args
    if right is None:
        return f"No batch from 1 to {most} meets the bound of {bound:g} s: return None."
    if found is None:
        return f"You return None, but a batch of {right[1]} meets the bound."
    if not isinstance(found, tuple | list) or len(found) != 4 or not all(isinstance(n, int | float) for n in found):
        return ""
    copies, batch, delay, latency = found
    if not 1 <= batch <= most or int(batch) != batch:
        return f"Your batch is {batch:g}; it must be a whole number from 1 to {most}."
    if int(copies) != copies:
        return f"You plan {copies:g} copies, but only whole processes can be started: round up."
    work, wait = first + more * batch, (batch - 1) / rate
    if abs(delay - wait) > 1e-6:
        return f"For a batch of {batch} your delay is {delay:g} s, but the last of {batch} requests comes {wait:g} s after the first."
    if abs(latency - wait - work) > 1e-6:
        return f"For a batch of {batch} your longest latency is {latency:g} s, but the first request waits {wait:g} s and then {work:g} s."
    if copies * batch < rate * work - 1e-6:
        return f"{counted(copies, 'copy answers', 'copies answer')} {copies * batch / work:.4g} requests a second, but {rate:g} requests come in a second."
    if latency > bound:
        return f"The latency of your plan, {latency:g} s, exceeds the bound of {bound:g} s."
    if copies != right[0]:
        return f"{copies} copies with batches of {batch} are enough, but another batch size needs fewer copies."
    return f"With {copies} copies there is a plan with a lower latency than {latency:g} s."


CHOOSE_BATCHING_ANSWER = Answer(
    exercise=CHOOSE_BATCHING,
    reference=choose_batching,
    comparison=Comparison(),
    names={"[0]": "the copies", "[1]": "the batch", "[2]": "the delay", "[3]": "the latency"},
    explain=_explain,
    mistakes=(
        Mistake(
            "Your latency contains only the computation of the batch, but before that the first request waits for the others.",
            _without_waiting,
        ),
        Mistake("Your delay has one gap too many: between n requests there are n - 1 gaps of 1 / rate.", _one_gap_more),
        Mistake(
            "You use the mean waiting time, but the bound is for the longest latency: the first request waits for the whole "
            "delay.",
            _half_the_wait,
        ),
        Mistake(
            "You round the number of copies down, so the copies cannot keep up and the queue grows without end: round up.",
            _too_few,
        ),
        Mistake("You choose the lowest latency, which a batch of 1 always has: choose the fewest copies first.", _fastest),
        Mistake(
            "You choose the largest batch within the bound, but a smaller batch may need as few copies and have a lower "
            "latency.",
            _largest,
        ),
        Mistake("Your plan ignores the bound.", _no_bound),
        Mistake("You always use one copy, but a single copy cannot always answer `rate` requests a second.", _one_copy),
        Mistake("Your delay and latency are in milliseconds, but they must be in seconds.", _milliseconds),
    ),
)


ANSWERS = (CHOOSE_BATCHING_ANSWER,)
