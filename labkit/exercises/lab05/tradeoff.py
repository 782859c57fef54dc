"""Bits, quality and speed of models, measured in turn, and their figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import labkit
from labkit.compress.calibration import HELD_OUT
from labkit.engine import Engine, evaluate
from labkit.exercises.lab05.tensors import MODEL
from labkit.measure import Task, Timing, compare, progress_bar
from labkit.measure.plots import COLOURS, GREY, NUMBER_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASK = Task(MODEL, sequences=1, prompt_tokens=16, new_tokens=32)
"""The task of every rung."""
HELD_OUT_LETTERS = 8_000
"""How much of the held-out text is predicted: enough to see large differences, and done in seconds."""


@dataclass(frozen=True)
class Row:
    """A model: its name, bits per weight of the blocks' matrices, megabytes of its weights, and bits per byte of held-out text.

    `low` and `high` are the 95 % interval of the bits per byte.
    """

    name: str
    bits: float
    megabytes: float
    bits_per_byte: float
    low: float
    high: float


def quality(name: str, engine: Engine, bits: float, megabytes: float) -> Row:
    """Predict the held-out text with an engine."""
    found = evaluate(engine, HELD_OUT.read_text("utf-8")[:HELD_OUT_LETTERS])
    low, high = found.interval or (math.nan, math.nan)
    return Row(name, bits, megabytes, found.bits_per_byte, low, high)


def megabytes_of(path: str | Path) -> float:
    """The size of the weight files in a model directory, in units of 1,000,000 bytes."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors")) / 1e6


def speeds(engines: Mapping[str, Engine], seconds: float = 15.0) -> dict[str, Timing]:
    """The seconds of the task for each engine; the engines take turns."""
    generator = torch.Generator("cpu").manual_seed(0)
    vocabulary = next(iter(engines.values())).config.vocab_size
    shape = TASK.sequences, TASK.prompt_tokens
    prompts = torch.randint(1, vocabulary, shape, generator=generator, dtype=torch.int64, device="cpu").tolist()
    params = labkit.SamplingParams(max_new_tokens=TASK.new_tokens, ignore_eos=True)
    calls = {name: lambda engine=engine: engine.generate(prompts, params) for name, engine in engines.items()}
    bar = progress_bar("models in turn")
    return compare(calls, warmup=2, min_runs=5, max_runs=15, max_seconds=seconds, progress=bar)


def figure(rows: Sequence[Row], timings: Mapping[str, Timing], guess: float, caption: str = "") -> Figure:
    """Two plots over bits per weight: bits per byte with 95 % intervals and the prediction for the fewest bits; tokens a second.

    guess: the predicted bits per byte of the model with the fewest bits. The size of each model in MB is written at its point.
    """
    drawn = new_figure("Bits, quality and speed", caption, width=8.6, height=4.2)
    left, right = drawn.subplots(1, 2)
    bits = [row.bits for row in rows]
    whiskers = [[row.bits_per_byte - row.low for row in rows], [row.high - row.bits_per_byte for row in rows]]
    left.errorbar(bits, [row.bits_per_byte for row in rows], yerr=whiskers, fmt="o-", color=COLOURS[0], ecolor=GREY, capsize=3)
    for row in rows:
        left.annotate(
            f"{row.name}\n{row.megabytes:.1f} MB",
            (row.bits, row.high),
            (0, 4),
            textcoords="offset points",
            fontsize=9,
            ha="center",
        )
    left.plot([min(bits)], [guess], "x", color=COLOURS[1], markersize=9, markeredgewidth=2, label="your prediction")
    highest = max(max(row.high for row in rows), guess)
    left.set(ylabel="bits per byte of held-out text (lower is better)", ylim=(0, highest * 1.25))
    left.legend(fontsize=NUMBER_SIZE, frameon=False, loc="upper right")
    rates = [TASK.tokens / timings[row.name].median for row in rows]
    ends = [(TASK.tokens / timings[row.name].high, TASK.tokens / timings[row.name].low) for row in rows]
    spans = [
        [r - low for r, (low, _) in zip(rates, ends, strict=True)],
        [high - r for r, (_, high) in zip(rates, ends, strict=True)],
    ]
    right.errorbar(bits, rates, yerr=spans, fmt="o-", color=COLOURS[2], ecolor=GREY, capsize=3)
    right.set(ylabel="tokens a second, batch 1", ylim=(0, max(high for _, high in ends) * 1.15))
    for axes in (left, right):
        _axis_of_bits(axes, bits)
    return drawn


def _axis_of_bits(axes: Any, bits: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(bits) / 1.4, max(bits) * 1.4)
    axes.minorticks_off()
    axes.set_xticks(bits, [f"{each:.3g}" for each in bits])
    axes.set_xlabel("bits per weight, with scales")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
