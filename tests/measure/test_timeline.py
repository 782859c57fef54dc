"""The timeline shows every bar at its time, in one row per worker. A bar made of parts shows each part and their sum."""

from __future__ import annotations

import pytest

from labkit.errors import InvalidRequest
from labkit.measure import plots
from tests.drawn_bars import bars


def test_bars_lie_where_they_were() -> None:
    rows = {"stage 0": [(0, 10.0, 0.5), (1, 10.5, 0.25)], "stage 1": [(0, 10.5, 1.0)]}
    figure = plots.timeline_plot(rows, title="t", caption="c")
    (axes,) = figure.axes
    found = [(patch.get_x(), patch.get_width(), round(patch.get_y() + 0.35)) for patch in bars(axes)]
    assert found == [(0.0, 500.0, 0), (500.0, 250.0, 0), (500.0, 1000.0, 1)]
    colours = [patch.get_facecolor() for patch in axes.patches]
    assert colours[0] == colours[2] != colours[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stage 0", "stage 1"]


def test_parts_follow_one_another_with_their_sum_at_the_end() -> None:
    figure = plots.parts_plot(["a", "b"], {"x": [1.0, 2.0], "y": [0.5, 0.0]}, xlabel="ms")
    (axes,) = figure.axes
    assert [(patch.get_x(), patch.get_width()) for patch in bars(axes)] == [(0, 1.0), (0, 2.0), (1.0, 0.5), (2.0, 0.0)]
    assert [text.get_text() for text in axes.texts] == [" 1.5", " 2"]
    with pytest.raises(InvalidRequest, match="part 'x' has 1 value for 2 names"):
        plots.parts_plot(["a", "b"], {"x": [1.0]}, xlabel="ms")


def test_no_bar_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no bars"):
        plots.timeline_plot({"stage 0": []})


def test_timelines_to_be_compared_have_one_axis() -> None:
    first, second = (plots.timeline_plot({"a": [(1, 5.0, took)]}, seconds=2.0).axes[0] for took in (0.5, 2.0))
    assert first.get_xlim() == second.get_xlim()
    assert first.get_xlim()[1] >= 2000


def test_a_bar_has_its_number_where_there_is_room() -> None:
    axes = plots.timeline_plot({"a": [(7, 0.0, 1.0), (8, 1.0, 0.001), (1234, 2.0, 0.03)]}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["7"]
