"""The answers to exercises 8.6 and 8.9: references, comparisons and known mistakes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab08.choice import CHOOSE_PLAN, DEFEND
from labkit.exercises.lab08.plans import per_gpu

Plan = dict[str, Any]


def _per_shard(plan: Plan) -> float:
    return float(plan["tokens_per_second"] / plan["tensor_parallel"])


def _per_stage(plan: Plan) -> float:
    return float(plan["tokens_per_second"] / plan["pipeline_parallel"])


def _per_sum(plan: Plan) -> float:
    return float(plan["tokens_per_second"] / (plan["tensor_parallel"] + plan["pipeline_parallel"]))


def _in_all(plan: Plan) -> float:
    return float(plan["tokens_per_second"])


def _quickest(plan: Plan) -> float:
    return -float(plan["ms"])


# 8.6 ------------------------------------------------------------------------------------------------------------------
def choose_plan(plans: list[Plan], bound_ms: float, gpu_gib: float) -> Plan | None:
    """The reference solution of exercise 8.6."""
    return _choose(plans, bound_ms, gpu_gib)


def _choose(
    plans: list[Plan],
    bound_ms: float,
    gpu_gib: float,
    *,
    worth: Callable[[Plan], float] = per_gpu,
    slow: bool = True,
    large: bool = True,
    edge: Callable[[float, float], bool] = operator.le,
    tie: int = -1,
    none: str = "None",
    first: bool = False,
) -> Plan | None:
    """Choose a plan. There is an option for each rule of the choice; a known mistake sets some options to wrong values."""
    allowed = [plan for plan in plans if (not slow or edge(plan["ms"], bound_ms)) and (not large or edge(plan["gib"], gpu_gib))]
    if not allowed and none == "nearest":
        return min(plans, key=lambda plan: plan["ms"])
    if not allowed and none == "None":
        return None
    if none == "of an empty list":
        allowed[0]
    return allowed[0] if first else max(allowed, key=lambda plan: (worth(plan), tie * plan["ms"]))


def _described(plan: Plan) -> str:
    gpus = plan["tensor_parallel"] * plan["pipeline_parallel"]
    return (
        f"{plan['name']} ({gpus} GPUs, {plan['ms']:.0f} ms, up to {plan['high_ms']:.0f} ms, {plan['gib']:.0f} GiB, "
        f"{plan['tokens_per_second']:.0f} tokens per second)"
    )


def _explain_choice(case: Case, found: Any, right: Any) -> str:
    """Return a message that says what is wrong with the plan that the learner's function chose."""
    plans, bound_ms, gpu_gib = case.args
    if found not in plans:
        return "Return one of the dictionaries of the list, as it is."
    limits = f"{bound_ms:.0f} ms and {gpu_gib:.0f} GiB"
    if right is None:
        return f"No plan of this list is within {limits}, so return None. You choose {_described(found)}."
    if found["ms"] > bound_ms or found["gib"] > gpu_gib:
        return f"You choose {_described(found)}; it is not within {limits}."
    return f"You choose {_described(found)}. Another plan within {limits} makes more tokens per second per GPU."


CHOOSE_PLAN_ANSWER = Answer(
    exercise=CHOOSE_PLAN,
    reference=choose_plan,
    comparison=Comparison(),
    explain=_explain_choice,
    mistakes=(
        Mistake("You choose the fastest plan; any plan within the bound is fast enough.", partial(_choose, worth=_quickest)),
        Mistake(
            "You compare the tokens of whole plans; divide them by the number of GPUs that make them.",
            partial(_choose, worth=_in_all),
        ),
        Mistake("A plan has TP times PP GPUs; you divide by TP only.", partial(_choose, worth=_per_shard)),
        Mistake("A plan has TP times PP GPUs; you divide by PP only.", partial(_choose, worth=_per_stage)),
        Mistake("A plan has TP times PP GPUs; you add the two.", partial(_choose, worth=_per_sum)),
        Mistake("Your plan does not fit into the memory of a GPU.", partial(_choose, large=False)),
        Mistake("Your plan is slower than the bound.", partial(_choose, slow=False)),
        Mistake("A plan that reaches a limit exactly is allowed.", partial(_choose, edge=operator.lt)),
        Mistake(
            "Of plans with equal tokens per second per GPU, the one with the lowest latency wins; you take the slowest.",
            partial(_choose, tie=1),
        ),
        Mistake(
            "Of plans with equal tokens per second per GPU, the one with the lowest latency wins; you take the first.",
            partial(_choose, tie=0),
        ),
        Mistake("If no plan is allowed, return None; you return the nearest one.", partial(_choose, none="nearest")),
        Mistake(
            "If no plan is allowed, return None; `max` of an empty list is an error unless it has a `default`.",
            partial(_choose, none="max of an empty list"),
        ),
        Mistake(
            "If no plan is allowed, return None; an empty list has no first element.", partial(_choose, none="of an empty list")
        ),
        Mistake("You return the first plan that is allowed; look for the best one.", partial(_choose, first=True)),
    ),
)


# 8.9 ------------------------------------------------------------------------------------------------------------------
def defend(plans: list[Plan], bound_ms: float, gpu_gib: float) -> dict[str, str]:
    """The reference solution of exercise 8.9."""
    return _defend(plans, bound_ms, gpu_gib)


def _defend(
    plans: list[Plan],
    bound_ms: float,
    gpu_gib: float,
    *,
    worth: Callable[[Plan], float] = per_gpu,
    end: str = "high_ms",
    order: tuple[str, str] = ("too large", "too slow"),
    beyond: Callable[[float, float], bool] = operator.gt,
    rivals: str = "that remain",
) -> dict[str, str]:
    """Return for each plan why it is chosen or not. There is an option for each rule.

    A known mistake sets some options to wrong values.
    """
    reasons = {}
    for plan in plans:
        wrong = {"too large": beyond(plan["gib"], gpu_gib), "too slow": beyond(plan[end], bound_ms)}
        reasons[plan["name"]] = next((why for why in order if wrong[why]), "fewer tokens")
    left = [plan for plan in plans if rivals == "all" or reasons[plan["name"]] == "fewer tokens"]
    if left:
        best = max(left, key=worth)
        if reasons[best["name"]] == "fewer tokens":
            reasons[best["name"]] = "chosen"
    return reasons


def _only_chosen(plans: list[Plan], bound_ms: float, gpu_gib: float) -> dict[str, str]:
    return {name: why for name, why in defend(plans, bound_ms, gpu_gib).items() if why == "chosen"}


def _reasons_only(plans: list[Plan], bound_ms: float, gpu_gib: float) -> dict[str, str]:
    return {name: why for name, why in defend(plans, bound_ms, gpu_gib).items() if why != "chosen"}


def _max_of_nothing(plans: list[Plan], bound_ms: float, gpu_gib: float) -> dict[str, str]:
    max(plan["gib"] for plan in plans if plan["gib"] <= gpu_gib and plan["high_ms"] <= bound_ms)
    return defend(plans, bound_ms, gpu_gib)


def _explain_defence(case: Case, found: Any, right: Any) -> str:
    """Return a message about the first plan for which the learner's reason is wrong. It also gives the plan's sizes."""
    plans, bound_ms, gpu_gib = case.args
    plan = next(plan for plan in plans if found[plan["name"]] != right[plan["name"]])
    return (
        f"For {_described(plan)}, {found[plan['name']]!r} is not right; the limits are {bound_ms:.0f} ms and {gpu_gib:.0f} GiB."
    )


DEFEND_ANSWER = Answer(
    exercise=DEFEND,
    reference=defend,
    comparison=Comparison(),
    explain=_explain_defence,
    mistakes=(
        Mistake(
            "You compare the prediction with the bound. You can defend a plan only if the upper end of its interval "
            "meets the bound.",
            partial(_defend, end="ms"),
        ),
        Mistake(
            "A plan that is both too large and too slow is called too large, because the size is tested first.",
            partial(_defend, order=("too slow", "too large")),
        ),
        Mistake("A plan that reaches a limit exactly has no reason against it.", partial(_defend, beyond=operator.ge)),
        Mistake(
            "You compare the tokens of whole plans; divide them by the number of GPUs that make them.",
            partial(_defend, worth=_in_all),
        ),
        Mistake("A plan has TP times PP GPUs; you divide by TP only.", partial(_defend, worth=_per_shard)),
        Mistake("A plan has TP times PP GPUs; you divide by PP only.", partial(_defend, worth=_per_stage)),
        Mistake("A plan has TP times PP GPUs; you add the two.", partial(_defend, worth=_per_sum)),
        Mistake(
            "You choose the fastest plan, but the one with the most tokens per second per GPU remains.",
            partial(_defend, worth=_quickest),
        ),
        Mistake(
            "A plan that is too large or too slow is not a rival: only plans without such a reason are compared.",
            partial(_defend, rivals="all"),
        ),
        Mistake("If every plan is too large or too slow, none is chosen; `max` of an empty list is an error.", _max_of_nothing),
        Mistake("Your dictionary has only the chosen plan; give a reason against each of the others.", _only_chosen),
        Mistake("Your dictionary has the reasons; the plan that remains is missing.", _reasons_only),
    ),
)
ANSWERS = (CHOOSE_PLAN_ANSWER, DEFEND_ANSWER)
