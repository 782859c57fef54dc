"""Speed ladders, one for each task: on disk, as text and as a figure. A rung that another program disturbed has a mark and no
ratio.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest
from labkit.measure import Ladder, Rung, Task, Timing, plots
from labkit.measure.disturbed import CELL_AGAIN, MARK, disturbed_note, of_most
from labkit.measure.rung import by_task, ladder_note, times_faster
from tests.drawn_bars import bars
from tests.measure.test_kept import assert_drawn

ONE = Task("gptj-tiny", sequences=1, prompt_tokens=64, new_tokens=64)
EIGHT = Task("gptj-tiny", sequences=8, prompt_tokens=16, new_tokens=1)
BUSY = "other programs kept this one waiting for a core for 45% of the time"
OLD = {"name": "Hugging Face", "tokens_per_second": 90.0, "low": 80.0, "high": 95.0, "details": {"runs": 5}}
"""A rung as an older labkit stored it."""


# Tasks ------------------------------------------------------------------------------------------------------------------
def test_a_task_says_what_it_is() -> None:
    assert str(ONE) == "gptj-tiny: 1 sequence, 64 prompt tokens and 64 new tokens"
    assert str(EIGHT) == "gptj-tiny: 8 sequences at once, 16 prompt tokens and 1 new token each"
    assert EIGHT.tokens == 8
    with pytest.raises(InvalidRequest, match="a task with 0 sequences, 1 prompt token and 1 new token: each number must be 1"):
        Task("gptj-tiny", 0, 1, 1)


# On disk ----------------------------------------------------------------------------------------------------------------
def test_a_rung_is_replaced_in_its_place_within_its_task(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    Ladder(path).add(ONE, "hf", 100.0, low=90.0, high=120.0, batch=1)
    Ladder(path).add(ONE, "cached", 250.0)
    Ladder(path).add(EIGHT, "hf", 900.0)
    Ladder(path).add(ONE, "hf", 125.0, batch=2)
    first = [Rung(ONE, "hf", 125.0, 125.0, 125.0, details={"batch": 2}), Rung(ONE, "cached", 250.0, 250.0, 250.0)]
    second = [Rung(EIGHT, "hf", 900.0, 900.0, 900.0)]
    assert Ladder(path).rungs == [*first, *second]
    assert (Ladder(path).of(ONE), Ladder(path).of(EIGHT)) == (first, second)
    assert by_task(Ladder(path).rungs) == [first, second]


def test_rungs_from_timings(tmp_path: Path) -> None:
    ladder = Ladder(tmp_path / "l.json")
    ladder.add_timings(ONE, {"a": Timing((0.5, 0.25, 1.0, 0.5, 0.5)), "b": Timing((1.0, 2.0, 4.0), BUSY)}, where="cpu")
    even, wide = ladder.rungs
    assert (even.low, even.tokens_per_second, even.high, even.disturbed) == (128.0, 128.0, 128.0, "")
    assert even.details == {"runs": 5, "where": "cpu"}
    assert (wide.low, wide.tokens_per_second, wide.high, wide.disturbed) == (64 / 3, 32.0, 64 / 1.5, BUSY)
    for equal in (0.1, 0.07, 1 / 3, 0.013):  # because of rounding, interpolated quartiles of equal runs may differ
        ladder.add_timings(EIGHT, {"equal": Timing((equal,) * 7)})


def test_an_empty_ladder_says_so(tmp_path: Path) -> None:
    assert Ladder(tmp_path / "none.json").rungs == []
    assert "empty" in Ladder(tmp_path / "none.json").text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "5",
        '{"a": 1}',
        "[3]",
        '[{"name": "x"}]',
        '[{"name": "x", "tokens_per_second": 1, "low": 1, "high": 1}]',
        json.dumps([OLD | {"task": "short prompts"}]),
        json.dumps([OLD | {"task": {"model": "gptj-tiny"}}]),
        json.dumps([OLD | {"task": vars(ONE), "tokens_per_second": "y"}]),
    ],
)
def test_a_damaged_ladder_is_empty_and_kept_aside(text: str, tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    path.write_text(text)
    assert Ladder(path).rungs == []
    assert "empty" in Ladder(path).text()
    Ladder(path).add(ONE, "hf", 100.0)
    assert [rung.name for rung in Ladder(path).rungs] == ["hf"]
    assert (tmp_path / "ladder.damaged").read_text() == text


def test_rungs_without_a_task_are_left_out_and_the_text_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    path.write_text(json.dumps([OLD]))
    assert Ladder(path).rungs == []
    said = "1 rung of an older version of labkit cannot be shown, because it is not known which task was measured."
    assert Ladder(path).text().startswith(said)
    path.write_text(json.dumps([OLD, OLD | {"task": vars(ONE)}]))
    assert Ladder(path).rungs == [Rung(ONE, "Hugging Face", 90.0, 80.0, 95.0, details={"runs": 5})]
    assert said in Ladder(path).text()
    Ladder(path).add(EIGHT, "labkit", 100.0)
    assert [rung.task for rung in Ladder(path).rungs] == [ONE, EIGHT]
    assert not (tmp_path / "ladder.damaged").exists()


@pytest.mark.parametrize(
    ("speed", "low", "high"),
    [(0.0, None, None), (-1.0, None, None), (math.nan, None, None), (math.inf, None, None), (5.0, 6.0, 7.0), (5.0, 1.0, 4.0)],
)
def test_speeds_that_cannot_be_are_refused(speed: float, low: float | None, high: float | None, tmp_path: Path) -> None:
    ladder = Ladder(tmp_path / "ladder.json")
    ladder.add(ONE, "hf", 100.0)
    with pytest.raises(InvalidRequest, match="rung 'bad'"):
        ladder.add(ONE, "bad", speed, low=low, high=high)
    assert [rung.name for rung in ladder.rungs] == ["hf"]


def test_a_crash_while_writing_leaves_the_old_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ladder.json"
    Ladder(path).add(ONE, "hf", 100.0)

    def crash(source: Any, target: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no space"):
        Ladder(path).add(ONE, "cached", 200.0)
    monkeypatch.undo()
    assert [rung.name for rung in Ladder(path).rungs] == ["hf"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ladder.json", "ladder.lock"]


def test_the_ladder_lives_in_labkits_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    Ladder().add(ONE, "hf", 100.0)
    assert Ladder(tmp_path / "home" / "ladder.json").rungs[0].name == "hf"


# Comparing --------------------------------------------------------------------------------------------------------------
def rung(task: Task, name: str, speed: float, disturbed: str = "") -> Rung:
    return Rung(task, name, speed, speed, speed, disturbed)


def test_speeds_are_compared_only_within_a_task() -> None:
    assert times_faster([rung(ONE, "a", 100.0), rung(ONE, "b", 250.0)]) == [1.0, 2.5]
    assert times_faster([]) == []
    with pytest.raises(InvalidRequest, match=r"different tasks cannot be compared: gptj-tiny: 1 sequence, .*; gptj-tiny: 8"):
        times_faster([rung(ONE, "a", 100.0), rung(EIGHT, "b", 250.0)])


def test_a_disturbed_rung_has_no_ratio() -> None:
    later = times_faster([rung(ONE, "a", 100.0), rung(ONE, "b", 250.0, BUSY), rung(ONE, "c", 300.0)])
    assert (later[0], math.isnan(later[1]), later[2]) == (1.0, True, 3.0)
    assert all(map(math.isnan, times_faster([rung(ONE, "a", 100.0, BUSY), rung(ONE, "b", 250.0)])))


def test_a_note_says_what_disturbed_a_measurement_and_how_to_measure_again() -> None:
    assert disturbed_note(["", ""]) == ""
    assert disturbed_note(["", "a", "b", "a"], "run it again") == (
        "! This measurement was disturbed: a; b. To get a better one, run it again."
    )
    quiet, noisy = rung(ONE, "a", 1.0), rung(ONE, "b", 2.0, BUSY)
    assert ladder_note([quiet]) == ""
    assert ladder_note([quiet, noisy]) == f"! This measurement was disturbed: {BUSY}. To get a better one, {CELL_AGAIN}."
    assert ladder_note([noisy, quiet]).endswith(" The first rung was disturbed, so this ladder has no ratios.")


def test_a_measurement_in_parts_is_disturbed_if_most_of_its_parts_are() -> None:
    assert of_most([]) == of_most([""]) == of_most(["a", ""]) == ""
    assert of_most(["a", "", "b"]) == of_most(["a"]) == "a"


# As text and as a figure ------------------------------------------------------------------------------------------------
def test_every_ladder_is_printed_below_its_task_and_begins_with_its_own_first_rung(tmp_path: Path) -> None:
    ladder = Ladder(tmp_path / "l.json")
    for name, speed in (("hf", 125.0), ("cached", 250.0)):
        ladder.add(ONE, name, speed)
    head, first, second = ladder.text().splitlines()
    assert head == str(ONE)
    assert "125.0 tokens/s" in first
    assert first.endswith("1.0 x")
    assert second.endswith("2.0 x")
    assert second.count("█") == 2 * first.count("█") == 30
    for name, speed in (("hf", 5000.0), ("engine", 15000.0)):
        ladder.add(EIGHT, name, speed)
    why, one, eight = ladder.text().split("\n\n")
    assert why.startswith("Each task has its own ladder")
    assert one.splitlines() == [head, first, second]
    head, first, second = eight.splitlines()
    assert head == str(EIGHT)
    assert (first[-5:], second[-5:]) == ("1.0 x", "3.0 x")
    assert first.count("█") == 10


def test_a_disturbed_rung_is_marked_in_the_text(tmp_path: Path) -> None:
    ladder = Ladder(tmp_path / "l.json")
    for name, speed, disturbed in (("hf", 100.0, ""), ("cached", 200.0, BUSY), ("engine", 300.0, "")):
        ladder.add(ONE, name, speed, disturbed=disturbed)
    *_, hf, cached, engine, note = ladder.text("run `labkit tour` again").splitlines()
    assert (hf[-5:], engine[-5:]) == ("1.0 x", "3.0 x")
    assert cached.endswith(f"200.0 tokens/s  {MARK}")
    assert note == f"! This measurement was disturbed: {BUSY}. To get a better one, run `labkit tour` again."
    ladder.add(ONE, "hf", 100.0, disturbed=BUSY)
    assert " x" not in ladder.text()
    ladder.add(ONE, "hf", 100.0)
    ladder.add(ONE, "cached", 200.0)
    assert MARK[0] not in ladder.text()


def test_ladder_plot(tmp_path: Path) -> None:
    speeds = {"hf": (100.0, 90.0, 120.0), "cached": (250.0, 250.0 + 1e-9, 260.0), "batch": (900.0, 800.0, 950.0)}
    figure = plots.ladder_plot([Rung(ONE, name, *speed) for name, speed in speeds.items()])
    (axes,) = figure.axes
    assert [bar.get_width() for bar in bars(axes)] == [100.0, 250.0, 900.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hf", "cached", "batch"]
    said = [text.get_text() for text in axes.texts]
    assert said == [" 100 tokens/s", " 250 tokens/s, 2.5 x", " 900 tokens/s, 9.0 x"]
    assert not any(bar.get_hatch() for bar in axes.patches)
    assert_drawn(figure, tmp_path / "ladder.png")
    with pytest.raises(InvalidRequest, match="no rungs"):
        plots.ladder_plot([])


def test_a_figure_draws_each_task_apart_and_marks_what_was_disturbed(tmp_path: Path) -> None:
    rungs = [rung(ONE, "a", 100.0), rung(EIGHT, "a", 5000.0), rung(EIGHT, "b", 6000.0, BUSY), rung(ONE, "b", 150.0)]
    figure = plots.ladder_plot(rungs, again="run `labkit tour` again")
    one, eight = figure.axes
    assert [text.get_text() for text in one.texts] == [" 100 tokens/s", " 150 tokens/s, 1.5 x"]
    assert [text.get_text() for text in eight.texts] == [" 5,000 tokens/s", f" 6,000 tokens/s {MARK}"]
    assert [bar.get_hatch() for bar in eight.patches] == ["", "//"]
    assert [part.get_suptitle() for part in figure.subfigs] == [str(ONE), str(EIGHT)]
    notes = [part.get_supxlabel().replace("\n", " ") for part in figure.subfigs]
    assert notes == ["", ladder_note(rungs[1:3], "run `labkit tour` again")]
    assert_drawn(figure, tmp_path / "ladder.png")
    for axes in figure.axes:
        assert all(text.get_window_extent().x1 < figure.bbox.x1 for text in axes.texts)
