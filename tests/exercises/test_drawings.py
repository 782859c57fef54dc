"""The drawings of labs 03 and 04 are drawn, the ring adds up, and measurements that came in turns are compared turn by turn."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib import image

from labkit.exercises.lab03 import drawings as of_lab_03
from labkit.exercises.lab04 import drawings as of_lab_04
from labkit.exercises.lab04 import ensemble, measurements
from labkit.exercises.lab04.measurements import Answered

DRAWINGS: tuple[Callable[[], Any], ...] = (
    *(of_lab_03.two_cuts, of_lab_03.ring, of_lab_03.timetable),
    *(of_lab_04.server, of_lab_04.ensemble, of_lab_04.stream, of_lab_04.batch_that_waits),
)


@pytest.mark.parametrize("draw", DRAWINGS, ids=[draw.__name__ for draw in DRAWINGS])
def test_a_drawing_has_ink_and_text_inside_the_figure(draw: Callable[[], Any]) -> None:
    figure = draw()
    pixels = image.imread(io.BytesIO(figure._repr_png_()), format="png")[..., :3]
    assert 0.02 < (pixels.min(-1) < 0.9).mean() < 0.9
    for axes in figure.axes:
        for text in axes.texts:
            assert text.get_fontsize() >= 8
            extent = text.get_window_extent()
            assert extent.x0 >= 0
            assert extent.x1 <= figure.bbox.x1


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_ring_adds_up_each_number_once_on_every_rank(ranks: int) -> None:
    steps = of_lab_03.ring_sums(ranks)
    assert len(steps) == 1 + 2 * (ranks - 1)
    assert steps[-1] == [[ranks] * ranks] * ranks
    for before, after in itertools.pairwise(steps):
        changed = [sum(a != b for a, b in zip(*rows, strict=True)) for rows in zip(before, after, strict=True)]
        assert changed == [1] * ranks  # in each step every rank receives one part


def test_the_drawn_ensemble_has_the_tensors_of_the_exercise() -> None:
    maps = ensemble.ensemble_maps()
    assert {name: tuple(map(set, both)) for name, both in maps.items()} == {
        name: (set(reads), set(makes)) for name, (reads, makes) in of_lab_04.PORTS.items()
    }


def load(seconds: list[float]) -> list[Answered]:
    """One request of 10 tokens for each turn, which takes so many seconds."""
    return [Answered(100.0 * turn, ("a", 10), ended=100.0 * turn + took, turn=turn) for turn, took in enumerate(seconds)]


def test_loads_are_compared_turn_by_turn_and_a_wide_spread_shows_no_number() -> None:
    steady, wild = load([4.0, 4.2, 3.8]), load([4.0, 0.5, 40.0])
    fast = load([1.0, 1.05, 0.95])
    for ratio in (measurements.gain(steady, fast), measurements.latency_ratio(steady, fast)):
        assert ratio.trusted
        assert ratio.median == pytest.approx(4.0)
        assert "4.00 x" in ratio.words
    assert measurements.tokens_per_second(fast) == pytest.approx(10.0)
    for ratio in (measurements.gain(wild, fast), measurements.latency_ratio(wild, fast)):
        assert not ratio.trusted
        assert " x" not in str(ratio)
        assert "close other programs and run this cell again" in ratio.words


def test_requests_that_were_sent_late_are_noticed() -> None:
    on_time = [Answered(5.0 + 0.02 * number, ("a", 1)) for number in range(20)]
    late = [Answered(5.0 + 0.05 * number, ("a", 1)) for number in range(20)]
    assert measurements.sent_late(on_time, 0.02) == ""
    assert "could not be sent in time" in measurements.sent_late(late, 0.02)
