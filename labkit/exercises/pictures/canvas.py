"""A blank drawing to which boxes, lines, arrows and brackets can be added.

The module draws no measurements, and knows nothing about the labs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labkit.measure.plots import COLOURS, DARK, NUMBER_SIZE, ink_on, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
PALE = "#EBEBEB"
"""The colour of a box that has no special meaning."""
GREY = "#999999"
"""The colour of hatching, and of lines that only guide the eye."""

TITLE_INCHES, CAPTION_LINE_INCHES = 0.45, 0.18
"""The height of the title and the height of one line of the caption, in inches."""
GAP_INCHES = 0.05
"""The distance between a line and its text, in units of the drawing."""

Point = tuple[float, float]


class Canvas:
    """A figure without axes, of `width` by `height` units. x grows to the right and y grows downwards.

    The drawing is `inches` wide, and a unit has about the same height and width. The caption is wrapped, and is placed below
    the drawing.
    """

    def __init__(self, title: str, width: float, height: float, *, caption: str = "", inches: float = 8.0) -> None:
        self.figure: Figure = new_figure(title, caption, width=inches)
        caption_lines = len(self.figure.get_supxlabel().splitlines())
        self.figure.set_figheight(inches * height / width + TITLE_INCHES + CAPTION_LINE_INCHES * caption_lines)
        self._inch = width / inches
        self._axes: Any = self.figure.add_subplot()
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: str = PALE,
        text: str = "",
        *,
        hatched: bool = False,
        size: float = NUMBER_SIZE,
    ) -> None:
        """A box with its upper left corner at (x, y) and a text in its middle.

        The text is black or white, whichever is easier to read. A hatched box has no colour; it stands for something that is
        left out.
        """
        from matplotlib.patches import Rectangle

        look: dict[str, Any] = {"facecolor": colour, "edgecolor": DARK}
        if hatched:
            look = {"facecolor": "white", "edgecolor": GREY, "hatch": "////"}
        self._axes.add_patch(Rectangle((x, y), width, height, linewidth=0.8, **look))
        if text:
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if hatched else None
            ink = DARK if hatched else ink_on(colour)
            self.text(x + width / 2, y + height / 2, text, colour=ink, size=size, bbox=behind)

    def text(self, x: float, y: float, text: str, *, colour: str = DARK, size: float = NUMBER_SIZE, **options: Any) -> None:
        """A text centred at (x, y). `options` are passed to matplotlib's `text`, and can change the text's place and style."""
        self._axes.text(x, y, text, color=colour, fontsize=size, **{"ha": "center", "va": "center", **options})

    def line(self, *points: Point, style: str = "-", colour: str = DARK) -> None:
        """A line through the points. `style` is a line style of matplotlib: "-", "--" or ":"."""
        self._axes.plot(*zip(*points, strict=True), style, color=colour, linewidth=1)

    def arrow(self, start: Point, end: Point, text: str = "", *, colour: str = DARK) -> None:
        """An arrow from `start` to `end`, with a text above the higher of the two points."""
        self._axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2})
        if text:
            y = min(start[1], end[1]) - GAP_INCHES * self._inch
            self.text((start[0] + end[0]) / 2, y, text, colour=colour, va="bottom")

    def bracket(self, x: float, end: float, y: float, text: str = "", *, above: bool = False) -> None:
        """A bracket from `x` to `end` at height `y`, and a text below it. The bracket opens upwards.

        If `above` is true, the text is above the bracket, and the bracket opens downwards.
        """
        down = -1 if above else 1
        tip = y - down * 0.08 * self._inch
        self.line((x, tip), (x, y), (end, y), (end, tip))
        if text:
            self.text((x + end) / 2, y + down * GAP_INCHES * self._inch, text, va="bottom" if above else "top")

    def ruler(self, y: float, ticks: Mapping[float, str]) -> None:
        """A horizontal axis; `ticks` maps each x to the text at its tick."""
        self.line((min(ticks), y), (max(ticks), y))
        for x, text in ticks.items():
            self.line((x, y), (x, y + 0.06 * self._inch))
            self.text(x, y + (0.06 + GAP_INCHES) * self._inch, text, va="top")
