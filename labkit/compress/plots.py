"""Plots for compression: how sensitive each matrix is, and how the quality depends on the number of bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labkit.compress.block import MATRICES
from labkit.compress.sensitivity import Damage, matrices_only
from labkit.errors import InvalidRequest
from labkit.measure.plots import COLOURS, MARKERS, NUMBER_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sensitivity_plot(damages: Sequence[Damage], *, bits: int | None = None, caption: str = "") -> Figure:
    """Draw a map of all matrices, with a row for each block and a column for each kind of matrix.

    The colour and the number in each cell show the divergence. The plot shows the damages at `bits` bits, by default at the
    largest measured number of bits. Raises `InvalidRequest` if no damage was measured at that number.
    """
    chosen = max((each.bits for each in damages), default=0) if bits is None else bits
    found = {each.module: each.divergence for each in matrices_only(damages) if each.bits == chosen}
    if not found:
        raise InvalidRequest(f"no damage was measured at {chosen} bits; measure the sensitivity first")
    layers = sorted({int(module.split(".")[2]) for module in found})
    values = [[1e3 * found[f"transformer.h.{layer}.{name}"] for name in MATRICES] for layer in layers]
    figure = new_figure(f"Damage when one matrix alone has {chosen} bits", caption, height=1.8 + 0.32 * len(layers))
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", cmap="cividis")
    brightest = max(max(row) for row in values)
    for row, numbers in enumerate(values):
        for column, value in enumerate(numbers):
            ink = "black" if value > 0.6 * brightest else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=NUMBER_SIZE, color=ink)
    axes.set_xticks(range(len(MATRICES)), [name.split(".")[1] for name in MATRICES])
    axes.set_yticks(range(len(layers)), [f"block {layer}" for layer in layers])
    figure.colorbar(image, label="KL divergence, 1/1000 nats per token")
    return figure


def quality_plot(
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    speeds: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    caption: str = "",
) -> Figure:
    """Draw the loss of quality against the bits per weight: one line for each algorithm, with 95 % intervals.

    `lines` maps each name to its points: (bits per weight, change of perplexity in percent, low, high). Changes below 0.01 %
    are drawn at 0.01 %, because the axis is logarithmic. `speeds` maps each name to pairs (bits per weight, tokens per second),
    which are drawn in a second diagram below the first.
    """
    figure = new_figure("Bits per weight and quality", caption, height=7.0 if speeds else 4.6)
    axes = figure.subplots(2 if speeds else 1, 1, sharex=True, squeeze=False)[:, 0]
    floor = 0.01
    for number, (name, points) in enumerate(lines.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        bits, changes, lows, highs = zip(*sorted(points), strict=True)
        drawn = [max(change, floor) for change in changes]
        below = [value - max(min(low, value), floor) for value, low in zip(drawn, lows, strict=True)]
        above = [max(high - value, 0.0) for value, high in zip(drawn, highs, strict=True)]
        axes[0].errorbar(bits, drawn, yerr=[below, above], fmt=f"{marker}-", markersize=5, capsize=3, color=colour, label=name)
    axes[0].set(yscale="log", ylabel="change of perplexity in % (log scale)")
    axes[0].grid(alpha=0.25, which="both")
    axes[0].legend(fontsize=NUMBER_SIZE)
    for (name, pairs), colour in zip((speeds or {}).items(), COLOURS * 9, strict=False):
        bits, rates = zip(*sorted(pairs), strict=True)
        axes[1].plot(bits, rates, "o-", color=colour, label=name)
        axes[1].set(ylabel="tokens a second", ylim=(0, None))
        axes[1].grid(alpha=0.25)
        axes[1].legend(fontsize=NUMBER_SIZE)
    axes[-1].set(xlabel="bits per weight in the blocks' matrices, with scales")
    return figure
