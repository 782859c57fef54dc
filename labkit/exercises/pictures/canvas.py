"""A blank drawing with boxes, brackets and arrows in data coordinates. Does not know what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.measure.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
PALE = "#E6E6E6"
INK = "#222222"


class Canvas:
    """A figure without axes, `width` by `height` in data units; y grows downwards, as one reads."""

    def __init__(self, title: str, width: float, height: float, *, inches: float = 8.0) -> None:
        from labkit.measure.figure import NotebookFigure

        self.figure: Figure = NotebookFigure(figsize=(inches, inches * height / width + 0.4), layout="constrained", dpi=110)
        self.figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        self.axes: Any = self.figure.add_subplot()
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: str,
        text: str = "",
        *,
        hatched: bool = False,
        ink: str = "white",
        size: float = 9,
    ) -> None:
        """A filled box with a text in its middle; a hatched box stands for something that is left out."""
        from matplotlib.patches import Rectangle

        fill: dict[str, Any] = (
            {"facecolor": "white", "edgecolor": "#999999", "hatch": "////"} if hatched else {"facecolor": colour}
        )
        self.axes.add_patch(Rectangle((x, y), width, height, **{"edgecolor": "white", "linewidth": 1.0, **fill}))
        if text:
            back = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if hatched else None
            self.text(x + width / 2, y + height / 2, text, colour=INK if hatched else ink, size=size, bbox=back)

    def text(self, x: float, y: float, text: str, *, colour: str = INK, size: float = 9, **options: Any) -> None:
        """A text around a point; `options` are those of matplotlib's `text`."""
        self.axes.text(x, y, text, color=colour, fontsize=size, **{"ha": "center", "va": "center", **options})

    def bracket(self, x: float, end: float, y: float, text: str, *, tick: float = 0.12, above: bool = False) -> None:
        """A bracket from `x` to `end` with a text below it, or above it."""
        turn = -1 if above else 1
        self.axes.plot([x, x, end, end], [y - turn * tick, y, y, y - turn * tick], color=INK, linewidth=1)
        self.text((x + end) / 2, y + turn * 0.1, text, va="bottom" if above else "top")

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """An arrow between two points."""
        self.axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.2})
