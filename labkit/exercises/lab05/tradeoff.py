"""Measures the bits per weight, the quality and the speed of several models, and draws the results in a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
"""The task on which every model is timed."""
HELD_OUT_LETTERS = 8_000
"""How many characters of the held-out text are predicted: enough to see large differences, and few enough to take seconds."""


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
    """Measure how well an engine predicts the held-out text."""
    found = evaluate(engine, HELD_OUT.read_text("utf-8")[:HELD_OUT_LETTERS])
    low, high = found.interval or (math.nan, math.nan)
    return Row(name, bits, megabytes, found.bits_per_byte, low, high)


def megabytes_of(path: str | Path) -> float:
    """The size of the weight files in a model directory, in units of 1,000,000 bytes."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors")) / 1e6


def speeds(engines: Mapping[str, Engine], seconds: float = 15.0) -> dict[str, Timing]:
    """Time the task on each engine; the engines take turns."""
    generator = torch.Generator("cpu").manual_seed(0)
    vocabulary = next(iter(engines.values())).config.vocab_size
    shape = TASK.sequences, TASK.prompt_tokens
    prompts = torch.randint(1, vocabulary, shape, generator=generator, dtype=torch.int64, device="cpu").tolist()
    params = labkit.SamplingParams(max_new_tokens=TASK.new_tokens, ignore_eos=True)

    def once(engine: Engine) -> None:
        engine.forget_prefixes()
        engine.generate(prompts, params)

    calls = {name: partial(once, engine) for name, engine in engines.items()}
    bar = progress_bar("models in turn")
    return compare(calls, warmup=2, min_runs=5, max_runs=15, max_seconds=seconds, progress=bar)


def figure(rows: Sequence[Row], timings: Mapping[str, Timing], guess: float, caption: str = "") -> Figure:
    """Draw two plots, of the bits per byte with 95 % intervals and of the tokens per second, with a tick for each model.

    The model with the fewest bits comes last. Below each tick are the bits per weight and the size in MB. guess: the bits per
    byte that the learner predicted for the last model.
    """
    drawn = new_figure("Bits, quality and speed", caption, width=9.4, height=4.2)
    left, right = drawn.subplots(1, 2)
    places = range(len(rows))
    whiskers = [[row.bits_per_byte - row.low for row in rows], [row.high - row.bits_per_byte for row in rows]]
    values = [row.bits_per_byte for row in rows]
    left.plot(places, values, "o-", color=COLOURS[0], label="measured, with 95 % intervals")
    left.errorbar(places, values, yerr=whiskers, fmt="none", ecolor=GREY, capsize=3)
    left.plot([places[-1]], [guess], "x", color=COLOURS[1], markersize=9, markeredgewidth=2, label="your prediction")
    for place, row in enumerate(rows):
        left.annotate(
            f"{row.bits_per_byte:.2f}", (place, row.low), (0, -12), textcoords="offset points", ha="center", fontsize=9
        )
    left.set(ylabel="bits per byte of held-out text", ylim=(0, 1.15 * max(guess, *(row.high for row in rows))))
    rates = [_speed(timings[row.name]) for row in rows]
    spans = [[middle - low for low, middle, _ in rates], [high - middle for _, middle, high in rates]]
    middles = [middle for _, middle, _ in rates]
    right.plot(places, middles, "o", color=COLOURS[2], label="measured, with quartiles")
    right.errorbar(places, middles, yerr=spans, fmt="none", ecolor=GREY, capsize=3)
    right.set(ylabel="tokens a second, batch 1", ylim=(0, 1.1 * max(high for _, _, high in rates)))
    for axes in (left, right):
        axes.set_xticks(places, [f"{row.name}\n{row.bits:.3g}\n{row.megabytes:.1f} MB" for row in rows], fontsize=9)
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.legend(fontsize=NUMBER_SIZE, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)  # not over the points
        axes.set_xlabel("format, bits per weight with scales, size")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    return drawn


def _speed(timing: Timing) -> tuple[float, float, float]:
    """Tokens per second: lower quartile, median and upper quartile."""
    return TASK.tokens / timing.high, TASK.tokens / timing.median, TASK.tokens / timing.low
