"""Figures drawn from measurements: roofline, sweep, ladder. Each carries a caption that says what it was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labkit.errors import InvalidRequest
from labkit.measure.how_far import predictions_in_words
from labkit.measure.ladder import Rung

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe & Ito 2008: safe for colour-blind eyes
GREY = "#777777"


def _figure(title: str, caption: str, width: float = 7.0, height: float = 4.0) -> Figure:
    from labkit.measure.figure import NotebookFigure

    figure = NotebookFigure(figsize=(width, height), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    if caption:
        figure.supxlabel(caption, fontsize=7, color=GREY, x=0.01, ha="left")
    return figure


def roofline_plot(
    read_bytes_per_second: float,
    flops_per_second: float,
    points: Mapping[str, tuple[float, float]],
    *,
    title: str = "Roofline",
    caption: str = "",
) -> Figure:
    """Reachable FLOPs a second against FLOPs a byte, with measured points `{name: (FLOPs a byte, FLOPs a second)}`."""
    figure = _figure(title, caption)
    axes = figure.add_subplot()
    ridge = flops_per_second / read_bytes_per_second
    intensities = [intensity for intensity, _ in points.values()]
    low, high = min([ridge / 100, *intensities]) / 2, max([ridge * 10, *intensities]) * 2
    axes.plot([low, ridge, high], [low * read_bytes_per_second, flops_per_second, flops_per_second], color=GREY, linewidth=2)
    axes.annotate("memory bound", (ridge / 8, ridge / 8 * read_bytes_per_second * 1.4), rotation=28, color=GREY, ha="right")
    axes.annotate("compute bound", (ridge * 1.5, flops_per_second * 1.25), color=GREY)
    for (name, (x, y)), colour in zip(points.items(), COLOURS * 9, strict=False):
        axes.plot([x], [y], "o", markersize=8, color=colour, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOPs for each byte read",
        ylabel="FLOPs a second",
        ylim=(None, flops_per_second * 4),
    )
    axes.grid(alpha=0.25, which="both")
    if points:
        axes.legend(fontsize=8, loc="lower right")
    return figure


FEW_TICKS = 10
"""Points of a sweep that all have their tick."""


def sweep_plot(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    limits: Mapping[str, Sequence[float]] | None = None,
    marks: Mapping[str, tuple[float, float]] | None = None,
    log: bool = True,
    title: str = "Sweep",
    caption: str = "",
) -> Figure:
    """One line a thing over the same x values; `bands` are quartiles, `limits` dashed lines (a roofline).

    `marks` are points that somebody said of one place: x and y of a prediction. Raises `InvalidRequest` when a line, band or
    limit and `x` differ in length.
    """
    for name, given in [*lines.items(), *(bands or {}).items(), *(limits or {}).items()]:
        if len(given) != len(x):
            raise InvalidRequest(f"line {name!r} has {len(given)} values for {len(x)} points of x")
    figure = _figure(title, caption)
    axes = figure.add_subplot()
    for (name, values), colour in zip(lines.items(), COLOURS * 9, strict=False):
        axes.plot(x, values, "o-", color=colour, label=name)
        if bands and name in bands:
            axes.fill_between(x, [low for low, _ in bands[name]], [high for _, high in bands[name]], color=colour, alpha=0.2)
    for (name, values), colour in zip((limits or {}).items(), [GREY, "#AAAAAA", "#444444"] * 9, strict=False):
        axes.plot(x, values, "--", color=colour, label=name)
    for name, (where, value) in (marks or {}).items():
        axes.plot([where], [value], "D", color="black", markersize=7, label=name)
    if log:
        from matplotlib.ticker import FuncFormatter, LogLocator

        axes.set(xscale="log", yscale="log")
        low, high = axes.get_ylim()
        if high < 1000 * low:  # with a label at every power of ten there would be one or two
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: plain(value)))
        axes.set_xticks(list(x), [plain(value) for value in x])
        axes.minorticks_off()
        ylabel += " (log scale)"
    else:
        if len(x) <= FEW_TICKS:
            axes.set_xticks(list(x), [plain(value) for value in x])
        else:
            axes.locator_params(axis="x", integer=True)
        axes.set_ylim(bottom=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)  # not over the lines
    return figure


def plain(value: float) -> str:
    """A number without an exponent where that can be read: 4,000,000, 0.25."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def ladder_plot(rungs: Sequence[Rung], *, title: str = "Your speed ladder", caption: str = "") -> Figure:
    """A bar a rung, quartiles as whiskers, and how many times the first rung it is."""
    if not rungs:
        raise InvalidRequest("the ladder has no rungs yet; run a measurement first")
    figure = _figure(title, caption, height=1.2 + 0.5 * len(rungs))
    axes = figure.add_subplot()
    speeds = [rung.tokens_per_second for rung in rungs]
    whiskers = [
        [max(0.0, rung.tokens_per_second - rung.low) for rung in rungs],
        [max(0.0, rung.high - rung.tokens_per_second) for rung in rungs],
    ]
    places = range(len(rungs))
    axes.barh(places, speeds, xerr=whiskers, color=COLOURS[0], ecolor=GREY, height=0.6, capsize=3)
    for place, rung in zip(places, rungs, strict=True):
        times = rung.tokens_per_second / speeds[0]
        text = f" {rung.tokens_per_second:,.0f} tokens/s" + (f", {times:.1f} x" if place else "")
        axes.text(max(rung.high, rung.tokens_per_second), place, text, va="center", fontsize=9)
    axes.set_yticks(places, [rung.name for rung in rungs])
    axes.invert_yaxis()
    axes.set(xlabel="tokens a second (bar: median, whisker: quartiles)", xlim=(0, 1.45 * max(rung.high for rung in rungs)))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def prediction_plot(
    names: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    limits: Mapping[str, float] | None = None,
    ranges: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    marks: Mapping[str, Mapping[str, float]] | None = None,
    log: bool = False,
    xlabel: str = "",
    title: str = "Prediction and measurement",
    caption: str = "",
) -> Figure:
    """Groups of bars, one group a name: what was predicted, what the roofline allows, what was measured.

    `limits` are dashed lines across all groups, `ranges` whiskers on the bars of a series (quartiles), `marks` diamonds over
    groups by name: a guess for some of them. Raises `InvalidRequest` when a series or its ranges and `names` differ in length,
    and for a mark over a group that there is not.
    """
    for label, spans in (ranges or {}).items():
        if label not in series or len(spans) != len(names):
            raise InvalidRequest(
                f"ranges of {label!r}: one for each of {len(names)} names, of a series that is drawn, is needed"
            )
    if strange := {name for at in (marks or {}).values() for name in at} - set(names):
        raise InvalidRequest(f"marks over {', '.join(sorted(strange))}, but the groups are {', '.join(names)}")
    figure = _figure(title, "\n".join(filter(None, (predictions_in_words(names, series), caption))))
    axes = figure.add_subplot()
    width = 0.8 / max(len(series), 1)
    for index, ((label, values), colour) in enumerate(zip(series.items(), COLOURS * 9, strict=False)):
        if len(values) != len(names):
            raise InvalidRequest(f"series {label!r} has {len(values)} values for {len(names)} names")
        places = [place - 0.4 + width * (index + 0.5) for place in range(len(names))]
        bars = axes.bar(places, values, width=0.9 * width, color=colour, label=label)
        if ranges and label in ranges:
            pairs = list(zip(values, ranges[label], strict=True))
            below, above = [max(0.0, v - low) for v, (low, _) in pairs], [max(0.0, high - v) for v, (_, high) in pairs]
            axes.errorbar(places, values, yerr=[below, above], fmt="none", ecolor="#444444", capsize=4)
        has_whisker = ranges is not None and label in ranges  # whose end would lie on the number
        axes.bar_label(
            bars,
            fmt=lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}",
            fontsize=7,
            label_type="center" if has_whisker else "edge",
            color="white" if has_whisker else "black",
        )
    strokes = [("#444444", "--"), (GREY, ":"), ("#AAAAAA", ":")] * 9
    for (label, height), (colour, style) in zip((limits or {}).items(), strokes, strict=False):
        axes.axhline(height, color=colour, linestyle=style, label=label)
    for label, at in (marks or {}).items():
        axes.plot([names.index(name) for name in at], list(at.values()), "D", color="black", markersize=7, label=label)
    if log:
        axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.55, len(names) - 0.45))
    axes.margins(y=0.3)  # the legend goes above the bars
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) + len(limits or {}) + len(marks or {}) > 1:
        axes.legend(fontsize=8)
    return figure


def parts_plot(
    names: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    title: str = "What it is made of",
    caption: str = "",
) -> Figure:
    """A bar a name, top down, made of parts behind one another, its sum at the end.

    Raises `InvalidRequest` when a part and `names` differ in length.
    """
    figure = _figure(title, caption, height=1.4 + 0.28 * len(names))
    axes = figure.add_subplot()
    before = [0.0] * len(names)
    for (label, values), colour in zip(parts.items(), COLOURS * 9, strict=False):
        if len(values) != len(names):
            raise InvalidRequest(f"part {label!r} has {len(values)} values for {len(names)} names")
        bars = axes.barh(range(len(names)), values, height=0.7, left=before, color=colour, label=label)
        before = [start + value for start, value in zip(before, values, strict=True)]
    if parts:
        axes.bar_label(bars, labels=[f" {total:.3g}" for total in before], fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel)
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    return figure


NUMBER_WIDTH = 0.012
"""Of a digit in a bar of `timeline_plot`, as a share of the figure's width."""


def timeline_plot(
    rows: Mapping[str, Sequence[tuple[int, float, float]]],
    *,
    seconds: float | None = None,
    title: str = "Timeline",
    caption: str = "",
) -> Figure:
    """Who worked when: a row a worker, top down, with bars `(number, began, seconds)`; what has one number has one colour.

    Time begins with the first bar, and ends after `seconds`, if given: timelines to be compared have one axis. A bar too
    narrow for its number has none. What is left white is idle. Raises `InvalidRequest` when there is no bar at all.
    """
    every = [bar for bars in rows.values() for bar in bars]
    if not every:
        raise InvalidRequest("the timeline has no bars; run something that notes its work first")
    start = min(began for _, began, _ in every)
    shown = 1e3 * (seconds or max(began + took for _, began, took in every) - start)
    figure = _figure(title, caption, height=1.2 + (0.5 if len(rows) <= 8 else 0.28) * len(rows))
    axes = figure.add_subplot()
    for place, bars in enumerate(rows.values()):
        for number, began, took in bars:
            left, width = 1e3 * (began - start), 1e3 * took
            axes.barh(
                place, width, left=left, height=0.7, color=COLOURS[number % len(COLOURS)], edgecolor="white", linewidth=0.5
            )
            if width > NUMBER_WIDTH * len(str(number)) * shown:
                axes.text(left + width / 2, place, str(number), ha="center", va="center", fontsize=7, color="white")
    axes.set_xlim(0, 1.02 * shown)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
