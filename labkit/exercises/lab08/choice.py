"""Exercises 8.6 and 8.9: find the best plan within a bound, and give a reason against every other plan."""

from __future__ import annotations

import random
from typing import Any

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise

BOUND_MS, GPU_GIB = 300.0, 80.0


def _plan(tensor: int, stages: int, batch: int, ms: float, gib: float, rate: float, high: float = 1.2) -> dict[str, Any]:
    """One row of a table of plans; `rate` is the tokens per second of all its GPUs."""
    return {
        "name": f"TP {tensor} x PP {stages}, batch {batch}",
        "tensor_parallel": tensor,
        "pipeline_parallel": stages,
        "batch": batch,
        "ms": ms,
        "high_ms": ms * high,
        "gib": gib,
        "tokens_per_second": rate,
    }


def _drawn(draw: random.Random, count: int) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        tensor, stages, batch = draw.choice([1, 2, 4, 8]), draw.choice([1, 2, 4]), 2 ** draw.randrange(9)
        ms, gib = draw.uniform(80, 900), draw.uniform(5, 140)
        row = _plan(tensor, stages, batch, ms, gib, draw.uniform(50, 900) * tensor * stages, draw.uniform(1.05, 1.5))
        rows[row["name"]] = row
    return list(rows.values())


def _tables(seed: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """Tables of plans. For each condition of the exercise, there is a table in which this condition decides the answer."""
    draw = random.Random(seed)
    bound, gib = BOUND_MS, GPU_GIB
    edge = [
        _plan(2, 1, 4, 200.0, 40.0, 300.0),
        _plan(2, 2, 8, bound, 40.0, 900.0, 1.0),
        _plan(1, 1, 1, 90.0, 40.0, 60.0),
    ]
    full = [
        _plan(1, 1, 4, 150.0, gib, 220.0),
        _plan(2, 1, 8, 160.0, 30.0, 260.0),
        _plan(1, 1, 8, 170.0, gib + 1, 400.0),
    ]
    stages = [
        _plan(2, 4, 16, 220.0, 20.0, 1500.0),
        _plan(4, 1, 8, 120.0, 30.0, 1000.0),
        _plan(8, 1, 16, 100.0, 30.0, 1400.0),
    ]
    late = [
        _plan(1, 1, 16, 290.0, 20.0, 500.0, 1.3),
        _plan(2, 1, 16, 200.0, 20.0, 800.0, 1.2),
        _plan(4, 1, 1, 60.0, 20.0, 70.0),
    ]
    both = [
        _plan(1, 1, 64, 500.0, gib + 9, 900.0),
        _plan(4, 1, 8, 120.0, 30.0, 700.0),
        _plan(8, 1, 8, 110.0, 20.0, 800.0),
        _plan(2, 1, 32, 400.0, 60.0, 950.0),
    ]
    slow = [_plan(2, 1, 64, 400.0, 40.0, 400.0), _plan(4, 1, 64, 350.0, 30.0, 700.0)]
    for rows in (edge, full, stages, late, both):
        draw.shuffle(rows)
    made = {
        "a plan that meets the bound exactly": edge,
        "a plan that fills the memory exactly": full,
        "plans with stages": stages,
        "a plan whose interval ends after the bound": late,
        "plans that are too large and too slow": both,
        "only plans that are too slow: none is allowed": slow,
    }
    return [*made.items(), *((f"{count} random plans", _drawn(draw, count)) for count in (5, 12, 30))]


# 8.6 ------------------------------------------------------------------------------------------------------------------
def _choice_cases(seed: int) -> list[Case]:
    twins = [_plan(2, 1, 4, 250.0, 40.0, 400.0), _plan(4, 1, 8, 210.0, 30.0, 800.0), _plan(8, 1, 16, 260.0, 20.0, 1600.0)]
    tables = [*_tables(seed), ("plans with equal tokens per second and GPU", twins)]
    return [Case(label, (rows, BOUND_MS, GPU_GIB)) for label, rows in tables]


CHOOSE_PLAN = Exercise(
    name="lab08.choose_plan",
    lab="08",
    number="8.6",
    title="The best plan within a bound",
    function="choose_plan",
    statement=(
        "`plans` is a list of dictionaries with `tensor_parallel`, `pipeline_parallel`, `ms` (latency of a batch), `gib` (memory of "
        "the fullest GPU) and `tokens_per_second` (of all GPUs of the plan together). A plan is allowed if it takes at most "
        "`bound_ms` and `gpu_gib`. Of the allowed plans, return the one with the most tokens per second **per GPU**; if "
        "several are equal, the one with the lowest latency. Return `None` if no plan is allowed."
    ),
    points=12,
    minutes=8,
    difficulty=2,
    core=True,
    cases=_choice_cases,
    hints=(
        "Which plans are allowed? How many GPUs does a plan have?",
        "First keep only the plans within both limits. Then compare them by a pair: tokens per second for each of TP times PP GPUs, "
        "and the latency with a minus sign.",
        "allowed = [p for p in plans if p['ms'] <= bound_ms and p['gib'] <= gpu_gib]",
    ),
)


# 8.9 ------------------------------------------------------------------------------------------------------------------
def _defence_cases(seed: int) -> list[Case]:
    return [Case(label, (rows, BOUND_MS, GPU_GIB)) for label, rows in _tables(seed)]


DEFEND = Exercise(
    name="lab08.defend",
    lab="08",
    number="8.9",
    title="Defend a plan",
    function="defend",
    statement=(
        "Return a dictionary from each plan's `name` to the first reason against it:\n\n- `too large`: `gib` is above `gpu_gib`;\n"
        "- `too slow`: the **upper end** of its interval, `high_ms`, is above `bound_ms`;\n- `fewer tokens`: another plan without "
        "these two reasons makes more tokens per second per GPU.\n\nThe plan that remains is `chosen`. (No two plans are "
        "equal.)"
    ),
    points=12,
    minutes=10,
    difficulty=3,
    core=True,
    cases=_defence_cases,
    hints=(
        "In which order are the reasons tested? Which plans can still be chosen after the first two?",
        "Go through the plans once and note the first two reasons. Among the plans without a reason, find the one with the most "
        "tokens per second for each of its GPUs.",
        "left = [p for p in plans if p['gib'] <= gpu_gib and p['high_ms'] <= bound_ms]",
    ),
)
