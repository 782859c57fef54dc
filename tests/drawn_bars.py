"""Finds the bars of a figure."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle


def bars(axes: Axes) -> list[Rectangle]:
    """The bars in `axes`, in the order in which they were drawn. Every patch must be a bar."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(found) == len(axes.patches)
    return found
