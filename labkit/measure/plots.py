"""Draws figures of measurements: rooflines, sweeps, ladders, predictions, parts and timelines.

Each figure has a title and a caption. The caption names the machine of the measurement. This module does not depend on an
engine or a lab.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.errors import InvalidRequest
from labkit.measure.disturbed import CELL_AGAIN, MARK
from labkit.measure.how_far import PREDICTION, is_far, measured_of, predictions_in_words
from labkit.measure.rung import Rung, by_task, ladder_note, times_faster
from labkit.plurals import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe & Ito 2008: safe for colour-blind eyes
MARKERS = ("o", "s", "^", "D", "v", "P")
MARKS = (("D", 7), ("*", 13), ("X", 10))
"""Shapes of single points in a sweep, each with its size in points."""
HATCHES = ("", "//", "..", "xx", "\\\\", "oo")
STROKES = ("--", ":", "-.")
"""Styles that distinguish lines, bars and limits without colour, in the order of `COLOURS`."""
GREY = "#777777"
DARK = "#333333"
"""The colour of captions. It is readable on white, but less prominent than the title."""
CAPTION_SIZE, LETTERS_AN_INCH = 9.5, 12
"""The font size of a caption in points, and the number of letters of this size that fit in an inch."""
NUMBER_SIZE = 9
"""The font size, in points, of the numbers and the legend in a figure."""
EDGE = 1.2
"""A bar that is cut off is drawn this many times as high as the highest of the other bars."""


def ink_on(colour: str) -> str:
    """Return "black" or "white": the colour of text that is easier to read on `colour` ("#RRGGBB")."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else "white"


def new_figure(title: str, caption: str = "", width: float = 7.0, height: float = 4.0) -> Figure:
    """Make an empty figure of `width` by `height` inches, with a title and a caption that is wrapped at the figure's width."""
    from labkit.measure.figure import NotebookFigure

    figure = NotebookFigure(figsize=(width, height), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    if caption:
        _put_caption(figure, _wrapped(caption, width))
    return figure


def _wrapped(caption: str, width: float) -> str:
    """Split the caption into lines that fit below a figure of this width in inches."""
    return "\n".join(textwrap.fill(line, int(LETTERS_AN_INCH * width)) for line in caption.splitlines())


def _put_caption(figure: FigureBase, lines: str) -> None:
    figure.supxlabel(lines, fontsize=CAPTION_SIZE, color=DARK, x=0.01, ha="left")


def roofline_plot(
    read_bytes_per_second: float,
    flops_per_second: float,
    points: Mapping[str, tuple[float, float]],
    *,
    title: str = "Roofline",
    caption: str = "",
) -> Figure:
    """Draw the attainable FLOPs per second against the FLOPs per byte.

    `points` is `{name: (FLOPs per byte, FLOPs per second)}`. These are measured points, which are also drawn.
    """
    figure = new_figure(title, caption)
    axes = figure.add_subplot()
    ridge = flops_per_second / read_bytes_per_second
    intensities = [intensity for intensity, _ in points.values()]
    low, high = min([ridge / 100, *intensities]) / 2, max([ridge * 10, *intensities]) * 2
    axes.plot([low, ridge, high], [low * read_bytes_per_second, flops_per_second, flops_per_second], color=GREY, linewidth=2)
    axes.annotate("memory bound", (ridge / 8, ridge / 8 * read_bytes_per_second * 1.4), rotation=28, color=GREY, ha="right")
    axes.annotate("compute bound", (ridge * 1.5, flops_per_second * 1.25), color=GREY)
    for (name, (x, y)), colour, marker in zip(points.items(), COLOURS * 9, MARKERS * 9, strict=False):
        axes.plot([x], [y], marker, markersize=8, color=colour, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOPs for each byte read",
        ylabel="FLOPs a second",
        ylim=(None, flops_per_second * 4),
    )
    axes.grid(alpha=0.25, which="both")
    if points:
        axes.legend(fontsize=NUMBER_SIZE, loc="lower right")
    return figure


FEW_TICKS = 10
"""A sweep with at most this many points has a tick on the x axis at each point."""
MOST_LETTERS = 70
"""The number of letters that fit below an axis that is as wide as a figure."""


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
    """Draw several lines over the same x values.

    `bands` is `{name of a line: (lower, upper quartile) at each x}`; a band is drawn around its line. Lines that coincide stay
    visible, because later lines have smaller markers. `limits` are drawn as dashed lines, for example a roofline or somebody's
    guesses. `marks` is `{name: (x, y)}`; each mark is a single point with its own shape, such as a prediction for one x. Raises
    `InvalidRequest` unless every line, band and limit has one value for each x.
    """
    for name, given in [*lines.items(), *(bands or {}).items(), *(limits or {}).items()]:
        if len(given) != len(x):
            raise InvalidRequest(f"line {name!r} has {counted(len(given), 'value')} for {counted(len(x), 'point')} of x")
    legend_rows = math.ceil((len(lines) + len(limits or {}) + len(marks or {})) / 2)
    figure = new_figure(title, caption, height=4.0 + 0.2 * max(0, legend_rows - 2))  # the legend gets its own room
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(lines.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(x, values, f"{marker}-", color=colour, label=name, markersize=max(4.0, 8.0 - number))
        if bands and name in bands:
            axes.fill_between(x, [low for low, _ in bands[name]], [high for _, high in bands[name]], color=colour, alpha=0.2)
    for (name, values), colour, stroke in zip((limits or {}).items(), [GREY, GREY, "#444444"] * 9, STROKES * 9, strict=False):
        axes.plot(x, values, stroke, color=colour, label=name)
    for (name, (where, value)), (shape, size) in zip((marks or {}).items(), MARKS * 9, strict=False):
        axes.plot([where], [value], shape, color="black", markersize=size, label=name)
    if log:
        from matplotlib.ticker import FuncFormatter, LogLocator

        axes.set(xscale="log", yscale="log")
        low, high = axes.get_ylim()
        if high < 1000 * low:  # the range holds too few powers of ten for useful labels
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: plain(value)))
        axes.set_xticks(list(x), _not_too_dense([plain(value) for value in x]))
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
    # The legend goes above the axes, so that it does not cover the lines.
    axes.legend(fontsize=NUMBER_SIZE, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return figure


def _not_too_dense(labels: list[str]) -> list[str]:
    """Return the labels of evenly spaced ticks. If not all labels fit, only every second (third, ...) label is kept."""
    room = MOST_LETTERS // max(1, max(len(label) for label in labels) + 2)
    step = -(-len(labels) // max(1, room))
    return [label if number % step == 0 else "" for number, label in enumerate(labels)]


def plain(value: float) -> str:
    """Return the number as text without an exponent, such as 4,000,000 or 0.25."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


LADDER_WIDTH = 7.0
"""The width of `ladder_plot` in inches."""


def ladder_plot(
    rungs: Sequence[Rung], *, title: str = "Your speed ladder", caption: str = "", again: str = CELL_AGAIN
) -> Figure:
    """Draw one ladder for each task, below the name of the task: one bar per rung, with quartiles as whiskers.

    Each bar is labelled with the speed of its rung, and with the ratio of this speed to the speed of the ladder's first rung.
    The bar of a disturbed rung is hatched, and has a mark instead of the ratio. A note below the ladder says what disturbed the
    rung, and how to measure again (`again`). Raises `InvalidRequest` if there are no rungs.
    """
    if not rungs:
        raise InvalidRequest("the ladder has no rungs yet; run a measurement first")
    ladders = by_task(rungs)
    notes = [_wrapped(ladder_note(ladder, again), LADDER_WIDTH) for ladder in ladders]
    heights = [0.8 + 0.45 * len(ladder) + 0.2 * len(note.splitlines()) for ladder, note in zip(ladders, notes, strict=True)]
    figure = new_figure(title, caption, LADDER_WIDTH, 0.8 + sum(heights))
    parts = figure.subfigures(len(ladders), height_ratios=heights, squeeze=False)
    for (part,), ladder, note in zip(parts, ladders, notes, strict=True):
        part.suptitle(str(ladder[0].task), fontsize=CAPTION_SIZE, x=0.01, ha="left")
        if note:
            _put_caption(part, note)
        axes = part.add_subplot()
        _draw_ladder(axes, ladder)
    axes.set(xlabel="tokens a second (bar: median, whisker: quartiles)")
    return figure


def _draw_ladder(axes: Axes, rungs: Sequence[Rung]) -> None:
    """Draw the ladder of one task."""
    speeds = [rung.tokens_per_second for rung in rungs]
    whiskers = [
        [max(0.0, rung.tokens_per_second - rung.low) for rung in rungs],
        [max(0.0, rung.high - rung.tokens_per_second) for rung in rungs],
    ]
    places = range(len(rungs))
    style: dict[str, Any] = {"ecolor": GREY, "height": 0.6, "capsize": 3, "edgecolor": "white"}
    axes.barh(places, speeds, xerr=whiskers, color=COLOURS[0], hatch=["//" * bool(rung.disturbed) for rung in rungs], **style)
    for place, (rung, times) in enumerate(zip(rungs, times_faster(rungs), strict=True)):
        compared = "" if place == 0 or math.isnan(times) else f", {times:.1f} x"
        text = f" {rung.tokens_per_second:,.0f} tokens/s" + (f" {MARK}" if rung.disturbed else compared)
        axes.text(max(rung.high, rung.tokens_per_second), place, text, va="center", fontsize=NUMBER_SIZE)
    axes.set_yticks(places, [rung.name for rung in rungs])
    axes.invert_yaxis()
    room = 1.8 if any(rung.disturbed for rung in rungs) else 1.45  # room for the numbers beside the bars
    axes.set_xlim(0, room * max(rung.high for rung in rungs))
    axes.spines[["top", "right"]].set_visible(False)


def _check_groups(
    names: Sequence[str],
    series: Mapping[str, Sequence[float]],
    ranges: Mapping[str, Sequence[tuple[float, float]]],
    marks: Mapping[str, Mapping[str, float]],
) -> None:
    """Raise `InvalidRequest` if the arguments of `prediction_plot` do not fit together."""
    for label, values in series.items():
        if len(values) != len(names):
            raise InvalidRequest(f"series {label!r} has {counted(len(values), 'value')} for {counted(len(names), 'name')}")
    for label, spans in ranges.items():
        if label not in series or len(spans) != len(names):
            raise InvalidRequest(
                f"`ranges` has {counted(len(spans), 'range')} for {label!r}; its keys must be names of `series` "
                f"({', '.join(series)}), and each series needs {len(names)} ranges, one per bar"
            )
    if strange := {name for at in marks.values() for name in at} - set(names):
        raise InvalidRequest(f"there are marks over {', '.join(sorted(strange))}, but the groups are {', '.join(names)}")


def _bar_places(series: Sequence[Sequence[float]], groups: int, width: float) -> list[list[float]]:
    """Return the x coordinate of each bar, by series and group.

    The bars of a group are side by side, centred on the middle of the group.
    """
    places = [[0.0] * groups for _ in series]
    for group in range(groups):
        present = [index for index, values in enumerate(series) if not math.isnan(values[group])]
        for nth, index in enumerate(present):
            places[index][group] = group + width * (nth - (len(present) - 1) / 2)
    return places


def _drawn_heights(series: Mapping[str, Sequence[float]], limits: Sequence[float], log: bool) -> dict[str, list[float]]:
    """Return the height of each bar: its value, unless it is a prediction that is far from the measured value.

    The bar of such a prediction ends at the edge of the figure, because at full height it would flatten all other bars.
    """
    measured = measured_of(series)
    heights = {label: list(values) for label, values in series.items()}
    far = [is_far(guess, value) for guess, value in zip(series.get(PREDICTION, ()), measured, strict=False)]
    if not any(far):
        return heights
    others = [value for label, values in series.items() if label != PREDICTION for value in values]
    near = [guess for guess, away in zip(series[PREDICTION], far, strict=False) if not away]
    shown = [value for value in (*others, *near, *limits) if math.isfinite(value) and value > 0]
    low, high = (min(shown) / 10, max(shown) * 10) if log else (0.0, max(shown) * EDGE)
    for group, away in enumerate(far):
        if away:
            heights[PREDICTION][group] = min(max(heights[PREDICTION][group], low), high)
    return heights


def _bars(
    axes: Any,
    label: str,
    bars: Sequence[tuple[float, float, float, Any]],
    width: float,
    colour: str,
    hatch: str,
    crossed: bool = False,
) -> None:
    """Draw the bars `(x, value, height, range or None)` of one series, and write the value of each bar at the bar.

    `crossed`: whether horizontal lines cross the figure. If so, the lines are interrupted where a value is written.
    """
    if not bars:
        return
    across, values, heights, spans = zip(*bars, strict=True)
    made = axes.bar(across, heights, width=width, color=colour, label=label, hatch=hatch, edgecolor="white", linewidth=0)
    has_whisker = spans[0] is not None  # a number at the top of the bar would cover the end of the whisker
    if has_whisker:
        below = [max(0.0, value - low) for value, (low, _) in zip(values, spans, strict=True)]
        above = [max(0.0, high - value) for value, (_, high) in zip(values, spans, strict=True)]
        axes.errorbar(across, values, yerr=[below, above], fmt="none", ecolor="#444444", capsize=4)
    behind = {"facecolor": colour if has_whisker else "white", "edgecolor": "none", "pad": 1.5 if has_whisker else 0.5}
    axes.bar_label(
        made,
        labels=[_number(value, height) for value, height in zip(values, heights, strict=True)],
        fontsize=NUMBER_SIZE,
        label_type="center" if has_whisker else "edge",
        color=ink_on(colour) if has_whisker else "black",
        bbox=behind if has_whisker or crossed else None,  # neither the hatch nor a line may cross the number
    )


def _number(value: float, height: float) -> str:
    """Return the number that is written at a bar, with an arrow if the bar is cut off."""
    said = f"{value:,.0f}" if 1000 <= value < 1e15 else f"{value:.3g}"
    return f"{said} ↑" if value > height else f"{said} ↓" if value < height else said


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
    """Draw one group of bars per name: the predicted value, the value that the roofline allows, and the measured value.

    A value that is NaN has no bar and takes no space. `limits` are drawn as dashed lines across all groups. `ranges` are drawn
    as whiskers (quartiles) on the bars of a series. `marks` is `{label: {name of a group: value}}`; each value is drawn as a
    diamond. Raises `InvalidRequest` if a series or its ranges do not have one entry for each name, or if a mark is over an
    unknown group.

    The bar of a prediction that is far from the measured value is cut off at the edge. Its number has an arrow, and the caption
    asks for a more plausible prediction.
    """
    _check_groups(names, series, ranges or {}, marks or {})
    figure = new_figure(title, "\n".join(filter(None, (predictions_in_words(names, series), caption))))
    axes = figure.add_subplot()
    width = 0.8 / max(len(series), 1)
    places = _bar_places(list(series.values()), len(names), width)
    heights = _drawn_heights(series, list((limits or {}).values()), log)
    looks = zip(COLOURS * 9, HATCHES * 9, strict=True)
    for (label, values), across, (colour, hatch) in zip(series.items(), places, looks, strict=False):
        spans = (ranges or {}).get(label)
        rows = enumerate(zip(across, values, heights[label], strict=True))
        drawn = [(x, value, height, spans and spans[group]) for group, (x, value, height) in rows]
        _bars(axes, label, [bar for bar in drawn if not math.isnan(bar[1])], 0.9 * width, colour, hatch, bool(limits))
    strokes = [("#444444", "--"), (GREY, ":"), (GREY, "-.")] * 9
    for (label, height), (colour, style) in zip((limits or {}).items(), strokes, strict=False):
        axes.axhline(height, color=colour, linestyle=style, label=label)
    for label, at in (marks or {}).items():
        axes.plot([names.index(name) for name in at], list(at.values()), "D", color="black", markersize=7, label=label)
    if log:
        axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.55, len(names) - 0.45))
    axes.margins(y=0.3)  # leave room for the legend above the bars
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) + len(limits or {}) + len(marks or {}) > 1:
        axes.legend(fontsize=NUMBER_SIZE)
    return figure


def parts_plot(
    names: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    title: str = "What it is made of",
    caption: str = "",
) -> Figure:
    """Draw one bar per name, from top to bottom. The parts of a bar are stacked, and their sum is written at its end.

    Raises `InvalidRequest` unless every part has one value for each name.
    """
    figure = new_figure(title, caption, height=1.4 + 0.28 * len(names))
    axes = figure.add_subplot()
    before = [0.0] * len(names)
    look: dict[str, Any] = {"height": 0.7, "edgecolor": "white", "linewidth": 0}
    for (label, values), colour, hatch in zip(parts.items(), COLOURS * 9, HATCHES * 9, strict=False):
        if len(values) != len(names):
            raise InvalidRequest(f"part {label!r} has {counted(len(values), 'value')} for {counted(len(names), 'name')}")
        bars = axes.barh(range(len(names)), values, left=before, color=colour, hatch=hatch, label=label, **look)
        before = [start + value for start, value in zip(before, values, strict=True)]
    if parts:
        axes.bar_label(bars, labels=[f" {total:.3g}" for total in before], fontsize=NUMBER_SIZE)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel)
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=NUMBER_SIZE)
    return figure


NUMBER_WIDTH = 0.012
"""The width of a digit in a bar of `timeline_plot`, as a share of the figure's width."""


def timeline_plot(
    rows: Mapping[str, Sequence[tuple[int, float, float]]],
    *,
    seconds: float | None = None,
    title: str = "Timeline",
    caption: str = "",
) -> Figure:
    """Show when each worker worked. There is one row per worker; a bar is `(number, began, seconds)`.

    Bars with the same number have the same colour. The time axis begins at the first bar. If `seconds` is given, the axis is
    that many seconds long, so that two timelines can have the same axis. A bar that is too narrow for its number shows no
    number. A worker is idle where its row is white. Raises `InvalidRequest` if there is no bar at all.
    """
    every = [bar for bars in rows.values() for bar in bars]
    if not every:
        raise InvalidRequest("the timeline has no bars; run something that records its work first")
    start = min(began for _, began, _ in every)
    shown = 1e3 * (seconds or max(began + took for _, began, took in every) - start)
    figure = new_figure(title, caption, height=1.2 + (0.5 if len(rows) <= 8 else 0.28) * len(rows))
    axes = figure.add_subplot()
    for place, bars in enumerate(rows.values()):
        for number, began, took in bars:
            left, width = 1e3 * (began - start), 1e3 * took
            colour = COLOURS[number % len(COLOURS)]
            axes.barh(place, width, left=left, height=0.7, color=colour, edgecolor="white", linewidth=0.5)
            if width > NUMBER_WIDTH * len(str(number)) * shown:
                style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": NUMBER_SIZE - 1, "color": ink_on(colour)}
                axes.text(left + width / 2, place, str(number), **style)
    axes.set_xlim(0, 1.02 * shown)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
