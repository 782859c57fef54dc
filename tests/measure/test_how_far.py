"""A figure with a prediction says how far off the prediction was, so that even a careless guess gets a comment."""

from __future__ import annotations

import math

import pytest

from labkit.measure import plots
from labkit.measure.how_far import how_far, is_far, predictions_in_words
from tests.drawn_bars import bars


@pytest.mark.parametrize(
    ("guess", "measured", "said"),
    [
        (10, 2.5, "4 times too high"),
        (10, 34, "3.4 times too low"),
        (10, 12_345, "1,234 times too low"),
        (10, 10.9, "right within 10 %"),
        (10, 10, "exactly right"),
        (0, 0.25, "too low: 0 for 0.25"),
        (10, 0, "too high: 10 for 0"),
        (math.nan, 5, ""),
        (10, math.inf, ""),
        (10, -3, ""),
    ],
)
def test_how_far(guess: float, measured: float, said: str) -> None:
    assert how_far(guess, measured) == said


def test_only_bars_that_were_predicted_and_measured_are_named() -> None:
    two = {"your prediction": [math.nan, 10], "a limit": [1, 1], "counted": [3, 20]}
    assert predictions_in_words(["apart", "together"], two) == "Your predictions: together: 2 times too low."
    assert predictions_in_words(["step"], {"measured": [5], "your prediction": [10]}) == "Your prediction was 2 times too high."
    assert predictions_in_words(["step"], {"measured": [5]}) == ""
    assert predictions_in_words(["step"], {"your prediction": [5], "memory floor": [1]}) == ""


@pytest.mark.parametrize(("guess", "log"), [(1e9, False), (1e9, True), (1e-9, True)])
def test_a_prediction_that_is_far_away_does_not_flatten_the_figure(guess: float, log: bool) -> None:
    series = {"your prediction": [math.nan, guess], "counted": [42.5, 8.48]}
    figure = plots.prediction_plot(["apart", "together"], series, ylabel="MB", log=log)
    predicted, apart, together = (bar.get_height() for bar in bars(figure.axes[0]))
    assert (apart, together) == (42.5, 8.48)
    assert together / 10 <= predicted <= (10 if log else 1.2) * apart
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0] == ("1,000,000,000 ↑" if guess > 1 else "1e-09 ↓")
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "times too" in caption
    assert "write down a more plausible number, and run the cell again" in caption


def test_only_a_far_prediction_is_asked_for_again() -> None:
    assert (is_far(100, 1), is_far(101, 1), is_far(1, 101), is_far(math.nan, 1), is_far(0, 5)) == (
        False,
        True,
        True,
        False,
        False,
    )
    series = {"your prediction": [99.0], "measured": [1.0]}
    assert predictions_in_words(["step"], series) == "Your prediction was 99 times too high."
    assert bars(plots.prediction_plot(["step"], series, ylabel="ms").axes[0])[0].get_height() == 99


def test_the_figure_says_it() -> None:
    figure = plots.prediction_plot(["step"], {"your prediction": [10], "measured": [5]}, ylabel="ms", caption="cpu")
    assert any("Your prediction was 2 times too high." in text.get_text() for text in figure.texts)
