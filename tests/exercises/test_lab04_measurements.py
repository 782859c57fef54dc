"""Lab 04's measurements: alternating loads are compared turn by turn, and requests that were sent too late are reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.exercises.lab04 import measurements
from labkit.exercises.lab04.measurements import Answered
from labkit.measure.disturbed import CELL_AGAIN

BUSY = "other programs kept this one waiting for a core for 45% of the time"


def load(seconds: list[float]) -> list[Answered]:
    """A load with one request of 10 tokens per turn. `seconds` holds the time that each request takes."""
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
    assert measurements.warning(on_time, 0.02) == ""
    assert "could not be sent in time" in measurements.warning(late, 0.02)


def test_a_load_is_disturbed_if_most_of_its_turns_are(capsys: pytest.CaptureFixture[str]) -> None:
    quiet, once = load([1.0, 1.05, 0.95]), load([1.0, 1.05, 0.95])
    once[0].disturbed = BUSY
    often = [replace(one, disturbed=BUSY * bool(one.turn)) for one in quiet]
    assert [measurements.disturbed(one) for one in (quiet, once, often)] == ["", "", BUSY]
    for ratio in (measurements.gain(quiet, often), measurements.latency_ratio(quiet, often)):
        assert (ratio.trusted, ratio.why) == (False, BUSY)
    assert BUSY in measurements.warning(often, 100.0)
    assert measurements.caption("32 tokens", {"alone": [quiet], "joined": [once]}) == "32 tokens"
    first, second = measurements.caption("32 tokens", {"alone": [quiet], "joined": [often]}).splitlines()
    assert first == "32 tokens"
    assert second == f"! This measurement was disturbed: {BUSY}. To get a better one, {CELL_AGAIN}."
    measurements.say_if_disturbed([quiet, once])
    assert capsys.readouterr().out == ""
    measurements.say_if_disturbed([quiet, often])
    assert capsys.readouterr().out == f"{second}\n"
