"""Boxes and arrows, for drawings that explain rather than measure. Knows matplotlib alone."""

from __future__ import annotations

from typing import Any

from labkit.measure.plots import DARK, NUMBER_SIZE, ink_on, new_figure

PALE = "#F2F2F2"
"""The colour of a box that belongs to nobody in particular."""

Point = tuple[float, float]


def canvas(title: str, caption: str, width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes without ticks; one unit of the axes is about one inch, and y grows downwards."""
    figure = new_figure(title, caption, width=width, height=height + 0.9)
    axes = figure.add_subplot()
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def box(axes: Any, corner: Point, size: Point, text: str = "", colour: str = PALE, **style: Any) -> None:
    """A box with its upper left corner at `corner`, and text in its middle; `style` goes to the text."""
    from matplotlib.patches import Rectangle

    (x, y), (width, height) = corner, size
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=DARK, linewidth=0.8))
    style = {"ha": "center", "va": "center", "fontsize": NUMBER_SIZE, "color": ink_on(colour)} | style
    axes.text(x + width / 2, y + height / 2, text, **style)


def arrow(axes: Any, start: Point, end: Point, text: str = "", colour: str = DARK, shape: str = "-|>") -> None:
    """An arrow with text above its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": shape, "color": colour, "linewidth": 1.3})
    if text:
        note(axes, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 0.06), text, va="bottom", color=colour)


def note(axes: Any, place: Point, text: str, **style: Any) -> None:
    """Text without a box, centred at `place` unless `style` says otherwise."""
    axes.text(*place, text, **{"ha": "center", "va": "center", "fontsize": NUMBER_SIZE, "color": DARK} | style)
