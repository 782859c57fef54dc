"""Stored measurements (records, kept runs), and figures, which must show the values that they were given."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.colors import to_rgb

from labkit.errors import InvalidRequest
from labkit.measure import KeptRuns, Record, Rung, Task, plots
from tests.drawn_bars import bars

TASK = Task("gptj-tiny", sequences=1, prompt_tokens=16, new_tokens=64)
ROWS = [{"engine": "labkit", "ms": 1.5, "runs": 7, "steady": True, "spread": {"low": 1.25}, "places": (1, 2)}]


def a_record(**changes: Any) -> Record:
    return Record(**{"kind": "bench", "settings": {"batch": 4, "precision": "fp32"}, "rows": ROWS, **changes})


# Records ----------------------------------------------------------------------------------------------------------------
def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = a_record(extra={"note": "é"})
    path = record.save(tmp_path / "new" / "record.json")
    again = Record.load(path)
    assert again.to_dict() == record.to_dict()
    assert again.rows[0]["places"] == [1, 2]
    assert again.machine["cpu"]["usable_cores"] >= 1
    assert again.versions["torch"] == torch.__version__.split("+")[0] or again.versions["torch"] == torch.__version__
    assert "fp32" in again.caption()
    assert again.created[:10] in again.caption()
    assert again.machine["cpu"]["model"] in again.caption()
    gpu = a_record(machine={"gpus": [{"name": "NVIDIA H100"}]})
    assert gpu.caption().startswith("NVIDIA H100; batch 4, precision fp32; torch ")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_record_refuses_numbers_that_are_none(number: float, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(InvalidRequest, match=r"bench\.rows\[1\]\.spread\.high is "):
        a_record(rows=[ROWS[0], {"spread": {"high": number}}]).save(path)
    with pytest.raises(InvalidRequest, match=r"bench\.extra\.x\[0\] is "):
        a_record(extra={"x": (number,)}).save(path)
    assert not path.exists()


@pytest.mark.parametrize("thing", [torch.ones(2), np.float32(1), {1, 2}, object()])
def test_a_record_refuses_what_json_cannot_hold(thing: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"bench\.rows\[0\]\.x is a .*; a record accepts numbers, text"):
        a_record(rows=[{"x": thing}]).to_dict()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"kind": "bench"}', '{"kind": 1, "unknown": 2}'])
def test_what_is_no_record_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"record\.json is not a record"):
        Record.load(path)
    with pytest.raises(InvalidRequest, match=r"gone\.json is not a record"):
        Record.load(tmp_path / "gone.json")


def test_a_record_without_its_machine_is_not_given_this_one(tmp_path: Path) -> None:
    path = a_record().save(tmp_path / "record.json")
    values = json.loads(path.read_text())
    del values["machine"]
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidRequest, match="lacks machine"):
        Record.load(path)
    values |= {"machine": {}, "rows": [{"ms": math.nan}]}
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidRequest, match="is nan"):
        Record.load(path)


# Kept runs --------------------------------------------------------------------------------------------------------------
def test_a_kept_run_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.json"
    assert KeptRuns("01", path).keep("speed", lambda: {"ms": [1.5, 2.5]}) == {"ms": [1.5, 2.5]}
    assert KeptRuns("01", path).keep("speed", lambda: 1 / 0) == {"ms": [1.5, 2.5]}
    assert "again=True" in capsys.readouterr().out
    assert KeptRuns("01", path).keep("speed", lambda: 7, again=True) == 7
    assert KeptRuns("01", path).keep("other", lambda: 8) == 8
    assert KeptRuns("01", path).keep("speed", lambda: 9) == 7


def test_a_run_of_another_machine_or_a_damaged_file_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    KeptRuns("01", path).keep("speed", lambda: 5)
    rows = json.loads(path.read_text())
    rows["speed"]["machine"] = "another processor, 96 cores"
    path.write_text(json.dumps(rows))
    assert KeptRuns("01", path).keep("speed", lambda: 6) == 6
    for text in ("", "[1]", '{"speed": 3}', path.read_text()[:-9]):
        path.write_text(text)
        assert KeptRuns("01", path).keep("speed", lambda: 7) == 7
    with pytest.raises(InvalidRequest, match="numbers, text, lists"):
        KeptRuns("01", path).keep("nan", lambda: math.nan)


# Figures ----------------------------------------------------------------------------------------------------------------
def lines_of(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    (axes,) = figure.axes
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def assert_drawn(figure: Any, path: Path) -> None:
    """Check that the figure's picture has more than one colour in every part of its inner area."""
    figure.savefig(path)
    pixels = image.imread(path)[..., :3]
    assert pixels.shape[0] > 100
    assert pixels.shape[1] > 400
    dark = pixels.min(-1) < 0.9
    assert 0.005 < dark.mean() < 0.9
    height, width = dark.shape
    for part in (dark[: height // 2], dark[height // 2 :], dark[:, : width // 2], dark[:, width // 2 :]):
        assert part.any()
    assert len(np.unique((pixels[dark] * 15).astype(int), axis=0)) > 5


def test_roofline_plot(tmp_path: Path) -> None:
    figure = plots.roofline_plot(1e11, 2e12, {"decode": (1.0, 5e10), "prefill": (200.0, 1.5e12)}, caption="on a test")
    lines = lines_of(figure)
    assert lines["decode"] == ([1.0], [5e10])
    assert lines["prefill"] == ([200.0], [1.5e12])
    ((x, y),) = [points for points in lines.values() if len(points[0]) == 3]
    assert (x[1], y[1]) == (20.0, 2e12)  # the ridge point, where both limits meet
    assert y[0] == pytest.approx(x[0] * 1e11)
    assert y[2] == 2e12
    assert x[0] < 1.0
    assert x[2] > 200.0
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")
    assert_drawn(figure, tmp_path / "roofline.png")


def test_sweep_plot(tmp_path: Path) -> None:
    x, ours, theirs, limit = [1, 2, 4, 8], [10.0, 19.0, 33.0, 60.0], [5.0, 9.0, 16.0, 31.0], [20.0, 40.0, 80.0, 160.0]
    bands = {"ours": [(value * 0.9, value * 1.1) for value in ours]}
    figure = plots.sweep_plot(
        x,
        {"ours": ours, "theirs": theirs},
        xlabel="batch",
        ylabel="tokens/s",
        bands=bands,
        limits={"limit": limit},
        marks={"guess": (4, 50.0)},
    )
    lines = lines_of(figure)
    assert lines == {"ours": (x, ours), "theirs": (x, theirs), "limit": (x, limit), "guess": ([4], [50.0])}
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("batch", "tokens/s (log scale)")
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(9.0)
    assert corners[:, 1].max() == pytest.approx(66.0)
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(lines)
    assert_drawn(figure, tmp_path / "sweep.png")


def test_marks_and_lines_of_a_sweep_are_told_apart() -> None:
    marks = {f"choice {number}": (4.0, 30.0 + number) for number in range(3)}
    same = [10.0, 19.0, 33.0]
    figure = plots.sweep_plot([1, 2, 4], {"one": same, "two": same}, xlabel="x", ylabel="y", marks=marks)
    one, two, *shown = figure.axes[0].lines
    assert len({line.get_marker() for line in shown}) == 3
    assert one.get_markersize() > two.get_markersize()
    assert figure.get_figheight() > plots.sweep_plot([1, 2, 4], {"one": same}, xlabel="x", ylabel="y").get_figheight()


@pytest.mark.parametrize("place", ["lines", "limits", "bands"])
def test_sweep_plot_refuses_lines_of_another_length(place: str) -> None:
    arguments: dict[str, Any] = {"lines": {"a": [1.0, 2.0]}, place: {"a": [(1.0, 2.0)] if place == "bands" else [1.0]}}
    with pytest.raises(InvalidRequest, match="'a' has 1 value for 2 points"):
        plots.sweep_plot([1, 2], arguments.pop("lines"), xlabel="x", ylabel="y", **arguments)


def test_prediction_plot_draws_every_series(tmp_path: Path) -> None:
    series = {f"series {index}": [index + 1.0, index + 2.0] for index in range(8)}
    figure = plots.prediction_plot(["prefill", "decode"], series, ylabel="ms")
    (axes,) = figure.axes
    assert sorted(bar.get_height() for bar in bars(axes)) == sorted(value for values in series.values() for value in values)
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(series)
    assert_drawn(figure, tmp_path / "prediction.png")
    with pytest.raises(InvalidRequest, match="1 value for 2 names"):
        plots.prediction_plot(["a", "b"], {"x": [1.0]}, ylabel="ms")
    drawn = plots.prediction_plot(
        ["a", "b"], {"x": [1.0, 2.0]}, ylabel="ms", ranges={"x": [(0.5, 1.5), (1.9, 2.5)]}, marks={"guess": {"b": 3.0}}
    )
    (axes,) = drawn.axes
    (mark,) = [line for line in axes.lines if line.get_label() == "guess"]
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([1], [3.0])
    for wrong in ({"ranges": {"x": [(0.5, 1.5)]}}, {"ranges": {"y": [(0, 1), (0, 1)]}}, {"marks": {"guess": {"c": 1.0}}}):
        with pytest.raises(InvalidRequest, match=r"`ranges` has|marks over c"):
            plots.prediction_plot(["a", "b"], {"x": [1.0, 2.0]}, ylabel="ms", **wrong)


def test_a_bar_that_was_not_asked_for_takes_no_room() -> None:
    series = {"your prediction": [math.nan, 3.0], "counted": [5.0, 2.0]}
    (axes,) = plots.prediction_plot(["apart", "together"], series, ylabel="MB").axes
    middles = {bar.get_height(): bar.get_x() + bar.get_width() / 2 for bar in bars(axes)}
    assert middles == pytest.approx({3.0: 0.8, 5.0: 0.0, 2.0: 1.2})  # the group without a prediction has its bar in the middle
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(series)


def test_a_caption_is_readable_and_stays_inside_the_figure() -> None:
    figure = plots.ladder_plot([Rung(TASK, "hf", 100.0, 90.0, 120.0)], caption="measured on a machine with a long name " * 4)
    caption = figure._supxlabel  # type: ignore[attr-defined]
    assert caption.get_fontsize() >= 9
    assert max(to_rgb(caption.get_color())) < 0.4
    figure.draw_without_rendering()
    assert caption.get_window_extent().x1 < figure.bbox.x1


def test_a_figure_shows_itself_in_a_notebook() -> None:
    figure = plots.ladder_plot([Rung(TASK, "hf", 100.0, 90.0, 120.0)])
    drawn = figure._repr_png_()[0]  # type: ignore[attr-defined]
    pixels = image.imread(io.BytesIO(drawn), format="png")
    assert pixels.std() > 0.05


def test_a_linear_sweep_has_whole_numbers_below_it(tmp_path: Path) -> None:
    figure = plots.sweep_plot([1, 2, 3], {"a": [1.0, 2.0, 4.0]}, xlabel="step", ylabel="ms", log=False)
    assert_drawn(figure, tmp_path / "linear.png")
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
