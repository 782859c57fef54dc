"""Describes a figure in words, for screen readers, terminals and search.

The text is made from the titles, axes, names and values of the finished figure. Code that draws a figure needs no changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_VALUES = 12
"""If a line or a row of bars has at most this many values, the text lists every value. Otherwise it gives only the range."""
MOST_LETTERS = 2000
"""A text with more characters is cut off, because nobody wants to listen to a longer text."""


def alt_text(figure: Figure) -> str:
    """Return the title of a figure, a description of each of its parts, and its caption, as sentences on one line."""
    parts = [figure.get_suptitle()]
    for axes in figure.axes:
        parts += described(axes)
    parts.append(figure.get_supxlabel())
    sentences = (" ".join(part.split()) for part in parts)
    said = " ".join(text if text[-1] in ".!?:" else f"{text}." for text in sentences if text)
    return said if len(said) <= MOST_LETTERS else said[: MOST_LETTERS - 2].rsplit(" ", 1)[0] + " …"


def described(axes: Axes) -> Iterator[str]:
    """Describe one part of a figure: its axes, lines and bars, or the texts in a drawing without axes."""
    if not axes.axison:
        yield "A drawing with these texts: " + "; ".join(_texts(axes))
        return
    yield axes.get_title()
    names = {"Horizontal axis": axes.get_xlabel(), "Vertical axis": axes.get_ylabel()}
    yield from (f"{axis}: {name}" for axis, name in names.items() if name)
    yield from map(_line, _named(axes.get_lines()))
    yield from _bars(axes)


def _texts(axes: Axes) -> Iterator[str]:
    """The texts of a drawing, without repeats, in reading order."""
    found = [(text.get_position(), text.get_text()) for text in axes.texts]
    yield from dict.fromkeys(text for (_, _), text in sorted(found, key=lambda each: (each[0][1], each[0][0])) if text.strip())


def _named(artists: Iterable[Any]) -> Iterator[Any]:
    """The lines or bars that were given a name. Names that matplotlib makes itself begin with an underscore."""
    return (artist for artist in artists if not str(artist.get_label()).startswith("_"))


def _line(line: Any) -> str:
    across, values = ([float(value) for value in data] for data in (line.get_xdata(), line.get_ydata()))
    name = line.get_label()
    if len(set(values)) == 1:
        return f"{name}: {_number(values[0])}" if len(values) > 1 else f"{name}: {_number(values[0])} at {_number(across[0])}"
    if len(values) > MOST_VALUES:
        return f"{name}: {len(values)} values from {_number(min(values))} to {_number(max(values))}"
    return f"{name}: " + ", ".join(f"{_number(y)} at {_number(x)}" for x, y in zip(across, values, strict=True))


def _bars(axes: Axes) -> Iterator[str]:
    """Describe each row of bars by its values. If the axis has a label at a bar, the label comes before the bar's value."""
    from matplotlib.container import BarContainer

    rows: list[Any] = [each for each in axes.containers if isinstance(each, BarContainer)]
    for bars in rows:
        is_upright = bars.orientation == "vertical"
        axis = axes.xaxis if is_upright else axes.yaxis
        labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        ticks = {round(float(place)): label.get_text() for place, label in labels}
        said = []
        for bar, value in zip(bars.patches, bars.datavalues, strict=True):
            middle = bar.get_x() + bar.get_width() / 2 if is_upright else bar.get_y() + bar.get_height() / 2
            said.append((ticks.get(round(middle), ""), float(value)))
        if len(rows) > MOST_VALUES and len(said) == 1:
            continue  # skip a timeline, which consists of hundreds of bars
        name = "" if str(bars.get_label()).startswith("_") else f"{bars.get_label()}: "
        yield name + ", ".join(f"{tick} {_number(value)}".strip() for tick, value in said)


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"
