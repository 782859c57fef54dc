"""A histogram of magnitudes, with the limits that calibrators choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.measure.plots import COLOURS, NUMBER_SIZE, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 60
STYLES = ("-", "--", ":", "-.")


def figure(magnitudes: Tensor, limits: Mapping[str, float] | None = None, *, title: str, caption: str = "") -> Figure:
    """A histogram of `BINS` bins with counts on a logarithmic axis, and a vertical line for each limit."""
    from matplotlib.ticker import FuncFormatter

    drawn = new_figure(title, caption, height=3.4)
    axes = drawn.add_subplot()
    counts = torch.histc(magnitudes, BINS, 0.0, largest := float(magnitudes.max()))
    axes.stairs(counts.tolist(), [largest * edge / BINS for edge in range(BINS + 1)], baseline=0.5, fill=True, color=COLOURS[0])
    for (name, limit), style, colour in zip((limits or {}).items(), STYLES, ("black", *COLOURS[1:]), strict=False):
        axes.axvline(limit, linestyle=style, linewidth=2, color=colour, label=f"{name}: {limit:.2f}")
    axes.set(yscale="log", xlabel="magnitude", ylabel="how many numbers (log scale)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: plain(value)))
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    if limits:
        axes.legend(fontsize=NUMBER_SIZE, frameon=False)
    return drawn
