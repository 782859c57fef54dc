"""The alternative text of a figure says what the figure shows, and figures can be read without colour."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from labkit.exercises.pictures.canvas import Canvas
from labkit.measure import Rung, Task, plots
from labkit.measure.alt_text import MOST_LETTERS, alt_text

SWEEP = plots.sweep_plot(
    [1, 2, 4],
    {"labkit": [10.0, 19.0, 30.0], "eager": [4.0, 7.0, 9.0]},
    xlabel="batch",
    ylabel="tokens a second",
    limits={"roofline": [50.0, 50.0, 50.0], "guess": [20.0, 30.0, 40.0]},
    title="Speed and batch",
    caption="a CPU, fp32",
)
BARS = plots.prediction_plot(
    ["prefill", "decode"],
    {"your prediction": [12.0, 3.0], "measured": [15.5, 2.5]},
    ylabel="ms",
    ranges={"measured": [(15.0, 16.0), (2.0, 3.0)]},
    title="One step",
)
PARTS = plots.parts_plot(["eager", "fused"], {"kernels": [3.0, 2.0], "gaps": [2.0, 0.5]}, xlabel="ms", title="Where time goes")


def test_the_text_of_a_sweep_has_its_axes_lines_and_caption() -> None:
    assert alt_text(SWEEP) == (
        "Speed and batch. Horizontal axis: batch. Vertical axis: tokens a second (log scale). "
        "labkit: 10 at 1, 19 at 2, 30 at 4. eager: 4 at 1, 7 at 2, 9 at 4. roofline: 50. guess: 20 at 1, 30 at 2, 40 at 4. "
        "a CPU, fp32."
    )


def test_the_text_of_bars_names_each_bar() -> None:
    text = alt_text(BARS)
    assert text.startswith("One step. Vertical axis: ms. ")
    assert "your prediction: prefill 12, decode 3." in text
    assert "measured: prefill 15.5, decode 2.5." in text
    assert "kernels: eager 3, fused 2. gaps: eager 2, fused 0.5." in alt_text(PARTS)


def test_the_text_of_a_ladder_names_each_rung() -> None:
    task = Task("gptj-tiny", 1, 8, 4)
    rungs = [Rung(task, name, 10.0 * times, 9.0 * times, 11.0 * times) for name, times in (("eager", 1), ("fused", 3))]
    text = alt_text(plots.ladder_plot(rungs))
    assert "eager 10, fused 30" in text


def test_the_text_of_a_drawing_has_its_texts_in_the_order_of_reading() -> None:
    canvas = Canvas("A weight", 8, 4, caption="each rank has one half")
    canvas.box(4, 0, 2, 1, text="rank 1")
    canvas.box(0, 0, 2, 1, text="rank 0")
    canvas.text(1, 3, "one sum")
    assert alt_text(canvas.figure) == "A weight. A drawing with these texts: rank 0; rank 1; one sum. each rank has one half."


def test_a_long_text_is_cut_off() -> None:
    text = alt_text(plots.new_figure("title", "word " * MOST_LETTERS))
    assert len(text) <= MOST_LETTERS
    assert text.endswith("word …")


def test_a_notebook_gets_the_text_with_the_picture() -> None:
    from IPython.core.formatters import DisplayFormatter

    data, metadata = DisplayFormatter().format(BARS)
    assert metadata["image/png"] == {"alt": alt_text(BARS)}
    assert data["text/plain"] == f"Figure: {alt_text(BARS)}"


def looks(figure: Any) -> list[Any]:
    """The features other than colour that distinguish the named lines and the rows of bars of a figure."""
    (axes,) = figure.axes
    lines = [(line.get_marker(), line.get_linestyle()) for line in axes.get_lines() if not line.get_label().startswith("_")]
    return lines + [bars.patches[0].get_hatch() for bars in axes.containers if hasattr(bars, "patches")]


@pytest.mark.parametrize("figure", [SWEEP, BARS, PARTS])
def test_lines_and_bars_differ_in_more_than_their_colour(figure: Any) -> None:
    found = looks(figure)
    assert len(found) >= 2
    assert len(set(found)) == len(found)


def test_the_hatching_is_drawn() -> None:
    """In grey, a hatched bar has two tones: the bar's own tone and white."""
    buffer = io.BytesIO(PARTS._repr_png_()[0])  # type: ignore[attr-defined]
    grey = image.imread(buffer, format="png")[..., :3].mean(axis=2)
    rows = [np.unique(row.round(2)) for row in grey]
    assert max(len(row) for row in rows) > 3
