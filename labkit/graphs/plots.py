"""Draws figures of optimised graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.graphs.levels import LevelFound
from labkit.measure import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def levels_plot(levels: Sequence[LevelFound], caption: str = "") -> Figure:
    """Draw two bar charts: for each level, the number of kernels in a decode step, and the megabytes that they read and write.

    Each bar of megabytes is divided into the bytes of the weights, which must be read at every level, and all other bytes. Both
    numbers are printed at the end of the bar.
    """
    figure = plots.new_figure("A decode step at each optimisation level of ONNX Runtime", caption, height=4.4)
    kernels, moved = figure.subplots(1, 2)
    names = [level.level for level in levels]
    places = range(len(names))
    bars = kernels.barh(places, [level.work.kernels for level in levels], color=plots.COLOURS[0])
    kernels.bar_label(bars, fontsize=plots.NUMBER_SIZE, padding=2)
    kernels.set_xlabel("kernels")
    weights = [level.work.weight_bytes / 1e6 for level in levels]
    others = [(level.work.moved_bytes - level.work.weight_bytes) / 1e6 for level in levels]
    moved.barh(places, weights, color=plots.COLOURS[4], hatch=plots.HATCHES[0], label="weights")
    bars = moved.barh(
        places, others, left=weights, color=plots.COLOURS[1], hatch=plots.HATCHES[1], label="activations and cache"
    )
    both = [f"{weight:.1f} + {other:.2f}" for weight, other in zip(weights, others, strict=True)]
    moved.bar_label(bars, labels=both, fontsize=plots.NUMBER_SIZE, padding=2)
    moved.set_xlabel("megabytes read and written")
    moved.legend(fontsize=plots.NUMBER_SIZE, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    for axes in (kernels, moved):
        axes.set_yticks(list(places), names)
        axes.invert_yaxis()
        axes.margins(x=0.18 if axes is kernels else 0.34)  # room for the numbers at the ends of the bars
        axes.spines[["top", "right"]].set_visible(False)
    return figure
