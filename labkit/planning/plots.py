"""Figures of plans and of the comparison with published tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.errors import InvalidRequest
from labkit.measure.plots import COLOURS, GREY, HATCHES, MARKERS, new_figure, plain
from labkit.planning.search import Answer, Plan, Question, pareto, pareto_points
from labkit.planning.validation import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHERS = "others"
"""The group of all layouts that have no separate colour."""
MOST_BARS = 8
"""The largest number of plans in the memory figure."""


def plans_plot(question: Question, answer: Answer) -> Figure:
    """Draw throughput against latency with the bound and the Pareto front, and the memory of the best plans.

    Raises `InvalidRequest` if no plan fits the memory.
    """
    if not answer.all_plans:
        raise InvalidRequest(f"nothing to draw: {answer.why_none}")
    caption = (
        f"Predicted, not measured. {question.shape.name} on {question.device.name}, at most {question.gpus} GPUs, "
        f"{question.input_tokens} prompt tokens, {question.output_tokens} new tokens, {', '.join(question.precisions)}, "
        f"{question.device.link.name if question.device.link else 'no link'}."
    )
    figure = new_figure("Plans: latency against throughput, and memory of one GPU", caption, 11, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_front(left, question, answer)
    _draw_memory(right, (answer.plans or answer.all_plans)[:MOST_BARS], question)
    return figure


def _draw_front(axes: Axes, question: Question, answer: Answer) -> None:
    best = list(dict.fromkeys(_layout(one) for one in [*pareto(answer.all_plans), *answer.plans]))[: len(COLOURS)]
    groups: dict[str, list[tuple[float, float]]] = {name: [] for name in best}
    for one in answer.all_plans:
        groups.setdefault(_layout(one) if _layout(one) in groups else OTHERS, []).append(_place(one))
    draw_front(axes, groups, 1e3 * question.latency_seconds)
    if answer.plans:
        first = answer.plans[0]
        draw_chosen(axes, _place(first), f"best: {_layout(first)}, batch {first.plan.batch}")
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)  # not over the points


def draw_front(axes: Axes, groups: Mapping[str, Sequence[tuple[float, float]]], bound_ms: float = math.inf) -> None:
    """Draw points (milliseconds, new tokens per second per GPU) in the colours of their groups, and the Pareto front.

    A finite bound is drawn as a line. The group `OTHERS` is grey.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    count = len(COLOURS)
    looks = ((COLOURS[n % count], MARKERS[(n + n // count) % len(MARKERS)]) for n in range(len(groups)))
    for name, points in groups.items():
        if name == OTHERS:
            axes.plot(*_columns(points), "o", color=GREY, markersize=3, alpha=0.6, label=name)
        else:
            colour, mark = next(looks)
            axes.plot(*_columns(points), mark, color=colour, label=name, markersize=5, alpha=0.8)
    front = pareto_points([point for points in groups.values() for point in points])
    axes.plot(*_columns(front), color=GREY, linewidth=1, label="Pareto front", zorder=0)
    if math.isfinite(bound_ms):
        axes.axvline(bound_ms, color="black", linestyle="--", linewidth=1, label="latency bound")
    axes.set(xscale="log", yscale="log", xlabel="latency of a batch, milliseconds", ylabel="new tokens per second per GPU")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: plain(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def draw_chosen(axes: Axes, place: tuple[float, float], label: str) -> None:
    """Draw an open diamond around the point of a plan that was chosen."""
    mark: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 2}
    axes.plot(*_columns([place]), "D", linestyle="none", label=label, **mark)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [ms for ms, _ in points], [rate for _, rate in points]


def _layout(one: Plan) -> str:
    return f"TP {one.plan.tensor_parallel} x PP {one.plan.pipeline_parallel}"


def _place(one: Plan) -> tuple[float, float]:
    """The place of a plan in the figure: milliseconds, and tokens per second per GPU."""
    return 1e3 * one.predicted.seconds, one.tokens_per_second_per_gpu


def _draw_memory(axes: Axes, plans: list[Plan], question: Question) -> None:
    names = [f"{_layout(one)}, {one.plan.precision}, batch {one.plan.batch}" for one in plans]
    parts = [{part: size / 2**30 for part, size in one.memory.to_dict().items() if part != "total"} for one in plans]
    draw_memory(axes, names, parts, question.device.memory_bytes / 2**30)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=3)


def draw_memory(axes: Axes, names: Sequence[str], plans: Sequence[Mapping[str, float]], gpu_gib: float) -> None:
    """Draw one bar per plan, from top to bottom, with its parts in GiB stacked. A line shows the memory of the GPU."""
    reached = [0.0] * len(plans)
    for part, colour, hatch in zip(plans[0], COLOURS, HATCHES, strict=False):
        sizes = [plan[part] for plan in plans]
        axes.barh(range(len(plans)), sizes, left=reached, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=part)
        reached = [before + size for before, size in zip(reached, sizes, strict=True)]
    axes.axvline(gpu_gib, color="black", linestyle="--", linewidth=1, label="memory of the GPU")
    axes.set_yticks(range(len(plans)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="GiB per GPU")


def validation_plot(report: Report) -> Figure:
    """Draw predicted against published latency, with one panel for each table.

    A filled mark is a row that was only predicted; an open mark is a row that was used for the fit.
    """
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
    """The name of a group, shortened for a legend."""
    return group.replace("-80gb", "").replace("-48gb", "").replace(", a100, TP", ", TP")
