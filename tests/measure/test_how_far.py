"""A figure with a prediction says how far the prediction was off, so that a careless guess gets an answer too."""

from __future__ import annotations

import math

import pytest

from labkit.measure import plots
from labkit.measure.how_far import how_far, predictions_in_words


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


def test_the_figure_says_it() -> None:
    figure = plots.prediction_plot(["step"], {"your prediction": [10], "measured": [5]}, ylabel="ms", caption="cpu")
    assert any("Your prediction was 2 times too high." in text.get_text() for text in figure.texts)
