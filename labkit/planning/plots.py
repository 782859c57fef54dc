"""Figures of plans and of the comparison with published tables. Uses matplotlib, through `labkit.measure.plots`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.errors import InvalidRequest
from labkit.measure.plots import COLOURS, GREY, new_figure
from labkit.planning.search import Answer, Plan, Question, pareto
from labkit.planning.validation import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 8
"""How many plans the figure of the memory shows."""


def plans_plot(question: Question, answer: Answer) -> Figure:
    """Draw throughput over latency with the bound and the Pareto front, and the memory of the best plans.

    Raises `InvalidRequest` if no plan fits the memory.
    """
    if not answer.all_plans:
        raise InvalidRequest(f"nothing to draw: {answer.why_none}")
    caption = (
        f"Predicted, not measured. {question.shape.name} on {question.device.name}, at most {question.gpus} GPUs, "
        f"{question.input_tokens} prompt tokens, {question.output_tokens} new tokens."
    )
    figure = new_figure("Plans: latency against throughput, and memory of one GPU", caption, 11, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_front(left, question, answer)
    _draw_memory(right, (answer.plans or answer.all_plans)[:MOST_BARS], question)
    return figure


def _draw_front(axes: Axes, question: Question, answer: Answer) -> None:
    best = list(dict.fromkeys(_layout(one) for one in [*pareto(answer.all_plans), *answer.plans]))[: len(COLOURS)]
    rest = [one for one in answer.all_plans if _layout(one) not in best]
    axes.plot(*_places(rest), "o", color=GREY, markersize=3, alpha=0.6, label="others" if rest else None)
    for colour, layout in zip(COLOURS, best, strict=False):
        mine = [one for one in answer.all_plans if _layout(one) == layout]
        axes.plot(*_places(mine), "o", color=colour, label=f"TP {layout[0]} x PP {layout[1]}", markersize=5, alpha=0.8)
    axes.plot(*_places(pareto(answer.all_plans)), color=GREY, linewidth=1, label="Pareto front", zorder=0)
    if math.isfinite(question.latency_seconds):
        axes.axvline(1e3 * question.latency_seconds, color="black", linestyle="--", linewidth=1, label="latency bound")
    axes.set(xscale="log", yscale="log", xlabel="latency of a batch, milliseconds", ylabel="new tokens per second per GPU")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _layout(one: Plan) -> tuple[int, int]:
    return one.plan.tensor_parallel, one.plan.pipeline_parallel


def _places(plans: Sequence[Plan]) -> tuple[list[float], list[float]]:
    """The places of plans in the figure: milliseconds, and tokens per second per GPU."""
    return [1e3 * one.predicted.seconds for one in plans], [one.tokens_per_second_per_gpu for one in plans]


def _draw_memory(axes: Axes, plans: list[Plan], question: Question) -> None:
    names = [
        f"TP {one.plan.tensor_parallel} x PP {one.plan.pipeline_parallel}, {one.plan.precision}, batch {one.plan.batch}"
        for one in plans
    ]
    reached = [0.0] * len(plans)
    for number, part in enumerate(("weights", "cache", "activations", "workspace")):
        sizes = [getattr(one.memory, part) / 2**30 for one in plans]
        axes.barh(range(len(plans)), sizes, left=reached, color=COLOURS[number], label=part)
        reached = [before + size for before, size in zip(reached, sizes, strict=True)]
    axes.axvline(question.device.memory_bytes / 2**30, color="black", linestyle="--", linewidth=1, label="memory of the GPU")
    axes.set_yticks(range(len(plans)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="GiB per GPU")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=3)


def validation_plot(report: Report) -> Figure:
    """Draw predicted over published latency, one panel for each table: filled marks were predicted, open ones fitted."""
    caption = (
        "On the line, the prediction is right; the grey band is within 15 %, the dotted lines are at 40 %. The efficiencies "
        "are fitted to the open marks only."
    )
    figure = new_figure("Predicted against published latency", caption, 11, 5.0)
    for axes, part in zip(figure.subplots(1, len(report.parts)), report.parts, strict=True):
        groups = list(dict.fromkeys(_name(row.group) for row in part.rows))
        for number, group in enumerate(groups):
            mine = [row for row in part.rows if _name(row.group) == group and row.seconds is not None]
            given = [1e3 * (row.seconds or 0) for row in mine]
            found = [1e3 * part.found.predict(row.plan, row.what).seconds for row in mine]
            colour = COLOURS[number % len(COLOURS)]
            face = "none" if part.fitted(mine[0]) else colour
            mark = "osD^v"[number // len(COLOURS) % 5]
            axes.plot(given, found, mark, color=colour, markerfacecolor=face, label=group, markersize=4.5, alpha=0.8)
        ends = [1e3 * (row.seconds or 0) for row in part.rows if row.seconds is not None]
        low, high = min(ends) / 1.5, max(ends) * 1.5
        axes.fill_between([low, high], [low * 0.85, high * 0.85], [low * 1.15, high * 1.15], color=GREY, alpha=0.2, linewidth=0)
        for factor in (0.6, 1.0, 1.4):
            line = "-" if factor == 1 else ":"
            axes.plot([low, high], [low * factor, high * factor], line, color=GREY, linewidth=1, zorder=0)
        axes.set(xscale="log", yscale="log", xlabel="published, milliseconds", ylabel="predicted, milliseconds")
        axes.set_title(part.title, fontsize=10)
        axes.legend(fontsize=7)
    return figure


def _name(group: str) -> str:
    """A shorter name for a legend."""
    return group.replace("-80gb", "").replace("-48gb", "").replace(", a100, TP", ", TP")
