"""All models that labs 05 and 06 make from gptj-tiny: a table like DistilBERT's, and one plot of bytes and quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.checkpoints.resolve import is_quantized
from labkit.compress import compress
from labkit.compress.method import Method
from labkit.compress.sparse import Sparse
from labkit.exercises.lab05.tradeoff import TASK
from labkit.exercises.lab06.models import MODEL, new_folder
from labkit.exercises.lab06.quality import Row, of
from labkit.measure import Timing, progress_bar
from labkit.measure.disturbed import SIGN, disturbed_note
from labkit.measure.plots import COLOURS, GREY, NUMBER_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {"dense": "o", "lab 05: fewer bits": "s", "lab 06: 2:4": "^", "lab 06: fewer layers": "D"}
"""The kinds of models, each with its marker."""


def quantized(source: str | Path, bits: int) -> Path:
    """Quantize a model into a new directory as in lab 05, by rounding to nearest. With 8 bits, each row has a scale; with fewer
    bits, each group of 64 numbers has a scale.
    """
    return compress(source, new_folder(f"int{bits}"), Method(IntegerScheme(bits, None if bits == 8 else 64), "rtn")).path


def two_four(pruned: Path, bits: int | None = None) -> Path:
    """Write a copy, in the 2:4 format, of a model directory whose matrices are already 2:4 sparse.

    If `bits` is set, the weights are also quantized to integers of this many bits.
    """
    scheme = None if bits is None else IntegerScheme(bits, 64 if bits < 8 else None)
    return compress(pruned, new_folder(f"two-four-{bits}"), Sparse("magnitude", scheme)).path


def precision(model: str | Path, device: torch.device) -> str | None:
    """The precision in which a model's speed is measured: fp16 or bf16, or None for a directory that stores its own format."""
    if is_quantized(model):
        return None
    return "fp16" if device.type == "cuda" else "bf16"


def rows(pruned: Path, student: Path) -> dict[str, list[Row]]:
    """Measure lab 05's models and a learner's own models in this process. The result has the keys of `KINDS`."""
    makers: dict[str, list[tuple[str, Callable[[], Path | str]]]] = {
        "dense": [("16 bits", lambda: MODEL)],
        "lab 05: fewer bits": [(f"int{bits}", partial(quantized, MODEL, bits)) for bits in (8, 4, 3, 2)],
        "lab 06: 2:4": [
            ("2:4", lambda: two_four(pruned)),
            ("2:4, int8", lambda: two_four(pruned, 8)),
            ("2:4, int4", lambda: two_four(pruned, 4)),
        ],
        "lab 06: fewer layers": [
            ("student", lambda: student),
            ("student, int8", lambda: quantized(student, 8)),
            ("student, int4", lambda: quantized(student, 4)),
        ],
    }
    bar, total = progress_bar("models"), sum(map(len, makers.values()))
    found: dict[str, list[Row]] = {}
    for kind, models in makers.items():
        for name, make in models:
            found.setdefault(kind, []).append(of(name, make()))
            bar(sum(map(len, found.values())), total)
    return found


def table(rows: Sequence[Row], timings: Mapping[str, Timing]) -> str:
    """A table like DistilBERT's: one line for each model, with the seconds of lab 05's task where they were measured."""
    header = f"{'model':<22}{'quality kept':>13}{'information':>13}{'parameters':>13}{'seconds':>9}"
    lines = [header, "-" * len(header)]
    for row in rows:
        timing = timings.get(row.name)
        seconds = f"{timing.median:.3f}{SIGN if timing.disturbed else ''}" if timing else "-"
        lines.append(f"{row.name:<22}{row.kept:>11.1f} %{row.information:>11.1f} %{row.parameters / 1e6:>11.2f} M{seconds:>9}")
    lines.append(f"seconds: the median for {TASK.new_tokens} tokens after {TASK.prompt_tokens}, batch 1")
    return "\n".join(filter(None, [*lines, disturbed_note(timing.disturbed for timing in timings.values())]))


def figure(found: Mapping[str, Sequence[Row]], caption: str = "") -> Figure:
    """One plot with a point for each model: its size in MB and its bits per byte, with 95 % intervals."""
    drawn = new_figure("Labs 05 and 06: bytes and quality", caption, width=8.6, height=4.8)
    axes = drawn.add_subplot()
    for (kind, marker), colour in zip(KINDS.items(), COLOURS, strict=False):
        models = found.get(kind, ())
        sizes, bits = [row.megabytes for row in models], [row.bits_per_byte for row in models]
        whiskers = [
            [0.0 if math.isnan(row.low) else row.bits_per_byte - row.low for row in models],
            [0.0 if math.isnan(row.high) else row.high - row.bits_per_byte for row in models],
        ]
        axes.errorbar(sizes, bits, yerr=whiskers, fmt="none", ecolor=GREY, elinewidth=0.6, capsize=2, alpha=0.7)
        axes.plot(sizes, bits, f"{marker}-", color=colour, linewidth=0.8, label=kind, zorder=4)
        for row in models:
            turn = -35 if kind.startswith("lab 05") else 35  # so that the names of neighbours do not overlap
            place, at = (row.megabytes, row.bits_per_byte), (4, 5 if turn > 0 else -5)
            look: dict[str, Any] = {
                "rotation": turn,
                "rotation_mode": "anchor",
                "va": "bottom" if turn > 0 else "top",
                "fontsize": 9,
                "bbox": {
                    "facecolor": "white",
                    "edgecolor": "none",
                    "pad": 0.5,
                    "alpha": 0.85,
                },  # no whisker runs through a name
                "zorder": 3,
            }
            axes.annotate(row.name, place, at, textcoords="offset points", **look)
    sizes = [row.megabytes for models in found.values() for row in models]
    left, right = min(sizes), max(sizes)
    room = 0.06 * (right - left) + 0.5  # small models are close together, so the axis does not begin at 0
    axes.set(xlabel="weight files in MB", ylabel="bits per byte of held-out text", xlim=(left - room, right + 2 * room))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=NUMBER_SIZE, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return drawn
