"""The figures of lab 08: a Pareto front with the bound, stacked memory per GPU, and predicted against published latency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from labkit.errors import InvalidRequest
from labkit.exercises.lab08.plans import Row, per_gpu
from labkit.measure.how_far import PREDICTION
from labkit.measure.plots import COLOURS, GREY, NUMBER_SIZE, new_figure, prediction_plot
from labkit.planning.plots import draw_chosen, draw_front, draw_memory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("weights", "cache", "activations", "workspace")


def guessed(made: Mapping[str, float], guesses: Mapping[str, float], label: str = "your function", **labels: Any) -> Figure:
    """A bar for each number in `made`, with the learner's prediction beside it if there is one.

    `labels` are passed to `labkit.measure.plots.prediction_plot`. Raises `InvalidRequest` for a guess that belongs to no bar.
    """
    if strange := set(guesses) - set(made):
        raise InvalidRequest(f"guesses for {', '.join(sorted(strange))}, but the bars are {', '.join(made)}")
    series = {PREDICTION: [guesses.get(name, math.nan) for name in made], label: list(made.values())}
    return prediction_plot(list(made), series, **labels)


def front(rows: Sequence[Row], bound_ms: float, chosen: Row | None = None, *, title: str, caption: str = "") -> Figure:
    """Plot tokens per second per GPU over latency, by layout, with the bound, the Pareto front and the chosen plan."""
    figure = new_figure(title, caption, 8.4, 4.6)
    axes = figure.add_subplot()
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        layout = f"TP {row['tensor_parallel']} x PP {row['pipeline_parallel']}"
        groups.setdefault(layout, []).append((row["ms"], per_gpu(row)))
    draw_front(axes, groups, bound_ms)
    if chosen is not None:
        draw_chosen(axes, (chosen["ms"], per_gpu(chosen)), f"your choice: {chosen['name']}")
    axes.legend(fontsize=NUMBER_SIZE, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def memory(rows: Sequence[Row], gpu_gib: float, *, title: str, caption: str = "") -> Figure:
    """Stacked bars of the memory of the fullest GPU in each plan, with the GPU's total memory as a line."""
    figure = new_figure(title, caption, 8.4, 1.7 + 0.32 * len(rows))
    axes = figure.add_subplot()
    draw_memory(axes, [row["name"] for row in rows], [row["memory"] for row in rows], gpu_gib)
    axes.legend(fontsize=NUMBER_SIZE, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def median_error(values: Sequence[float], truth: Mapping[Any, float]) -> float:
    """The median of the relative errors, in percent; `values` are in the order of `truth`."""
    return 100 * median(abs(value / right - 1) for value, right in zip(values, truth.values(), strict=True))


def against(published: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str, caption: str = "") -> Figure:
    """Plot predicted against published milliseconds. Predictions on the line are exact; the band is 15 % on either side."""
    figure = new_figure(title, caption, 6.6, 4.6)
    axes = figure.add_subplot()
    for (name, values), colour, mark in zip(series.items(), COLOURS, "os^", strict=False):
        axes.plot(published, values, mark, color=colour, label=name, markersize=5, alpha=0.8)
    ends = [min(published) / 2, max(published) * 1.5]
    axes.plot(ends, ends, color=GREY, linewidth=1, label="right")
    axes.fill_between(
        ends,
        [0.85 * end for end in ends],
        [1.15 * end for end in ends],
        color=GREY,
        alpha=0.2,
        linewidth=0,
        label="within 15 %",
    )
    axes.set(xscale="log", yscale="log", xlabel="published, milliseconds", ylabel="predicted, milliseconds")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=NUMBER_SIZE)
    return figure
