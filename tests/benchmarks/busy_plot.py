"""Draws a record of `tests.benchmarks.busy`."""

from __future__ import annotations

from pathlib import Path

from labkit.measure import Record
from labkit.measure.figure import NotebookFigure

MARKS = "os^Dv"


def draw(record: Record, path: Path) -> None:
    """Draw how fast labkit is in each state, compared with the better fixed number of threads and with the peers."""
    ratios = record.extra["ratios"]
    cells = list(dict.fromkeys((row["model"], row["precision"], row["batch"]) for row in ratios))
    states = list(dict.fromkeys(row["beside"] for row in ratios))
    figure = NotebookFigure(figsize=(11, 2.4 + 0.42 * len(cells)), layout="constrained")
    phases = {"step": "decode step", "prefill": "prefill"}
    for axes, (phase, title) in zip(figure.subplots(1, 2, sharey=True), phases.items(), strict=True):
        kinds = dict.fromkeys(key for row in ratios for key in row if key.startswith(f"{phase}_"))
        for colour, kind in enumerate(kinds):
            against = kind.removeprefix(f"{phase}_").replace("best_fixed", "fixed number of threads")
            for mark, beside in zip(MARKS, states, strict=False):
                rows = [row for row in ratios if row["beside"] == beside and kind in row]
                places = [cells.index((row["model"], row["precision"], row["batch"])) for row in rows]
                label = f"against {against}, {beside} busy"
                axes.plot([row[kind] for row in rows], places, mark, color=f"C{colour}", alpha=0.75, label=label)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(xscale="log", xlabel="times as fast (right of the line: labkit is faster)", title=title)
        axes.set_yticks(range(len(cells)), [f"{model} {precision}, batch {batch}" for model, precision, batch in cells])
        axes.grid(axis="x", alpha=0.3)
        axes.set_xticks(ticks := [0.5, 0.7, 1, 1.5, 2, 3, 5, 10], [str(tick) for tick in ticks])
        axes.minorticks_off()
    handles, labels = figure.get_axes()[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=3, loc="outside lower center")
    cpu = record.machine["cpu"]
    figure.suptitle(f"labkit while other processes keep cores busy: {cpu['model']}, {cpu['usable_cores']} cores")
    figure.savefig(path)
