"""The class board: a table for each device and task, speeds relative to each learner's own baseline, and bad files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from labkit.gradebook.board import NO_BOARD, Board, read_board
from labkit.gradebook.board_page import board_page
from labkit.gradebook.board_words import board_text
from labkit.gradebook.class_page import class_page
from labkit.gradebook.collect import collect
from labkit.gradebook.reading import digest
from labkit.gradebook.submitted_ladders import MOST_OF_ONE, submitted_board
from tests.gradebook.classes import SOLVED, notebook, write
from tests.gradebook.test_exports import Reader, report

TASK = {"model": "gptj-tiny", "sequences": 1, "prompt_tokens": 64, "new_tokens": 64}
BATCH = TASK | {"sequences": 8}
CHAIN = ["Hugging Face", "cache", "fused", "int8"]
BUSY = "other programs kept this one waiting for a core for 45% of the time"
NASTY = '<img src="http://x.test/?a" onerror=alert(1)>&\u202e\ud800'


def rung(name: str, speed: float, device: str = "EPYC", task: dict[str, Any] = TASK, disturbed: str = "") -> dict[str, Any]:
    about = {"device": device, "task": task, "name": name, "disturbed": disturbed, "runs": 5}
    return about | {"tokens_per_second": speed, "low": speed * 0.9, "high": speed * 1.1}


def ladder(name: str, *rungs: dict[str, Any]) -> str:
    """The text of a learner's ladder file."""
    about = {"kind": "labkit ladder", "version": 1, "unit": "tokens per second", "name": name}
    versions = {"labkit": "0.1.0", "torch": "2.13.0", "numpy": "2.1"}
    return json.dumps(about | {"created": "2026-10-05T10:00:00+00:00", "versions": versions, "rungs": rungs})


def chain(*speeds: float, **more: Any) -> list[dict[str, Any]]:
    return [rung(name, speed, **more) for name, speed in zip(CHAIN, speeds, strict=False)]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A class on two devices: eve's second rung is missing, and bob's third was disturbed."""
    bob = chain(20, 50, 100, 400)
    bob[2]["disturbed"] = BUSY
    texts = {
        "ada": ladder("ada", *chain(10, 30, 80, 100), rung("batch", 500, task=BATCH)),
        "bob": ladder("bob", *bob),
        "eve": ladder("eve", *chain(40, 120, device="M2"), rung("Hugging Face", 8), rung("fused", 16)),
    }
    return [write(tmp_path / f"{name}.json", text) for name, text in texts.items()]


def test_a_table_for_each_device_and_task(files: list[Path]) -> None:
    board = read_board(files)
    assert (board.learners, board.remarks) == (3, ())
    assert [(table.device, table.task.sequences) for table in board.tables] == [("EPYC", 1), ("EPYC", 8), ("M2", 1)]
    whole, batch, other = board.tables
    assert whole.rungs == tuple(CHAIN)
    assert [row.name for row in whole.rows] == ["ada", "bob", "eve"]
    assert [row.name for row in batch.rows] == ["ada"]
    assert [row.name for row in other.rows] == ["eve"]
    ada, bob, eve = (row.cells for row in whole.rows)
    assert [ada[name].times for name in CHAIN] == [1, 3, 8, 10]
    assert (bob["int8"].times, bob["fused"].disturbed) == (20, BUSY)
    assert math.isnan(bob["fused"].times)
    assert "cache" not in eve
    assert eve["fused"].times == 2  # the speed is relative to eve's own baseline, not to the class's
    assert (ada["cache"].speed, ada["cache"].low, ada["cache"].high) == (30, 27, pytest.approx(33))


def test_the_class_is_the_median_without_what_was_disturbed(files: list[Path]) -> None:
    whole, batch, _ = read_board(files).tables
    first, fused = whole.whole["Hugging Face"], whole.whole["fused"]
    assert (first.speed, first.low, first.high, first.count) == (10, 9, 15, 3)
    assert (fused.speed, fused.count, fused.times) == (48, 2, 5)
    assert batch.whole == {}  # one learner is not a class


def test_a_disturbed_baseline_gives_no_ratios(tmp_path: Path) -> None:
    rungs = chain(10, 30)
    rungs[0]["disturbed"] = BUSY
    (table,) = read_board([write(tmp_path / "a.json", ladder("ada", *rungs))]).tables
    assert all(math.isnan(cell.times) for cell in table.rows[0].cells.values())
    (table,) = read_board(
        [write(tmp_path / "a.json", ladder("ada", *rungs)), write(tmp_path / "b.json", ladder("bob", *chain(5, 9)))]
    ).tables
    assert (table.rungs[0], table.rows[1].cells["cache"].times) == ("Hugging Face", 1.8)


def test_one_file_cannot_change_the_order_of_the_others(tmp_path: Path) -> None:
    turned = ladder("eve", *reversed(chain(10, 30, 80, 100)), *(rung(f"x{number}", 1) for number in range(50)))
    texts = [ladder("ada", *chain(10, 30, 80, 100)), ladder("bob", *chain(10, 30, 80, 100)), turned]
    (table,) = read_board([write(tmp_path / f"{number}.json", text) for number, text in enumerate(texts)]).tables
    assert [name for name in table.rungs if not name.startswith("x")] == CHAIN
    assert table.rungs[0] == "Hugging Face"


# Odd files --------------------------------------------------------------------------------------------------------------
def test_odd_files_are_named_and_the_others_count(files: list[Path], tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(50 * 2**20)
    odd = [
        write(tmp_path / "text.json", "hello"),
        write(tmp_path / "nan.json", ladder("nan", rung("Hugging Face", float("nan")))),
        write(tmp_path / "huge.json", ladder("huge", rung("Hugging Face", 1e200))),
        write(tmp_path / "unit.json", ladder("unit", *chain(1)).replace("tokens per second", "ms")),
        tmp_path / "large.json",
        tmp_path / "gone.json",
        write(tmp_path / "again.json", files[0].read_text()),
    ]
    board = read_board([*odd[:3], *files, *odd[3:]])
    assert board.tables == read_board(files).tables
    assert len(board.remarks) == len(odd)
    for path, said in zip(
        odd, ["", "nan", "1e+200", "its unit is 'ms'", "52,428,800", "No such file", "counts once"], strict=True
    ):
        (remark,) = [remark for remark in board.remarks if str(path) in remark]
        assert said in remark
        assert remark.endswith(".")
        assert "\n" not in remark


def test_nobody_takes_the_place_of_another_one(files: list[Path], tmp_path: Path) -> None:
    other = write(tmp_path / "cheat.json", ladder("ada", *chain(1, 999)))
    cyrillic = write(tmp_path / "cyrillic.json", ladder("\u0430da", *chain(1, 999)))
    board = read_board([*files, other, cyrillic])
    assert [row.name for row in board.tables[0].rows] == ["ada", "ada (2)", "bob", "eve", "\u0430da"]
    assert board.tables[0].rows[0].cells["cache"].speed == 30
    assert "Several files have the name 'ada'; each file has its own row." in board.remarks
    assert any("These names look alike" in remark and "\\u0430da" in remark for remark in board.remarks)


# The page and its text twin ---------------------------------------------------------------------------------------------
def test_page_and_text_say_the_same(files: list[Path]) -> None:
    board = read_board(files)
    page, text = Reader(board_page(board)).text, board_text(board)
    for words in (
        "gptj-tiny: 1 sequence, 64 prompt tokens and 64 new tokens",
        "30.0 tokens/s",
        "(27.0 to 33.0)",
        "(90.0 to 110.0)",
        "! measured on a busy machine, so it is not compared",
        "labkit 0.1.0, torch 2.13.0",
        "20 x",
        "of 2 learners",
        "nobody has checked the numbers",
    ):
        assert words in page, words
        assert words in text, words
    assert "Hugging Face (baseline)" in page
    assert "(baseline: Hugging Face)" in text
    assert page.count("not measured") == 2
    assert board_text(NO_BOARD) == "No file has a speed ladder."


def test_the_page_is_plain_and_safe_whatever_a_file_says(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.json", ladder(NASTY, rung(NASTY, 1, device=NASTY, task=TASK | {"model": NASTY}, disturbed=NASTY))
    )
    board = read_board([path, write(tmp_path / "y.json", ladder("bob", rung(NASTY, 1, device=NASTY)))])
    page, text = board_page(board), board_text(board)
    read = Reader(page)
    assert not read.tags & {"img", "script", "iframe", "link", "object", "form"}
    assert not [name for name in read.attributes if name.startswith("on") or name in ("src", "href")]
    assert page.count("&lt;img src=") >= 4
    assert "default-src 'none'" in page
    for shown in (page, text):
        assert "\u202e" not in shown
        assert "\\u202e" in shown
        shown.encode("utf-8")


# With `labkit grade` ----------------------------------------------------------------------------------------------------
def submissions(root: Path) -> Path:
    for learner in ("ada", "bob"):
        write(root / learner / "00.ipynb", notebook(SOLVED))
    write(root / "ada" / "ladder.json", ladder("someone else", *chain(10, 30)))
    write(root / "bob" / "ladders" / "bob.ladder.json", ladder("ada", *chain(10, 30)))
    write(root / "bob" / "other.json", "{}")
    write(root / "eve" / "ladder.json", "{}")
    return root


def test_ladders_in_submissions_have_the_name_of_the_folder(tmp_path: Path) -> None:
    found = collect(submissions(tmp_path / "submissions"))
    board = submitted_board(found)
    assert [row.name for row in board.tables[0].rows] == ["ada", "bob"]
    (note,) = [note for note in found.notes if "ladder" in note.text]
    assert (note.learner, note.file) == ("eve", "ladder.json")
    assert note.text.startswith("The file is not a speed ladder: its kind is None")
    page = class_page(report("ada", "bob"), board)
    assert "<h2>Speed ladders</h2>" in page
    assert "30.0 tokens/s" in page
    assert "Speed ladders" not in class_page(report("ada", "bob"))


def test_too_many_ladders_of_one_learner_are_left_out(tmp_path: Path) -> None:
    for number in range(MOST_OF_ONE + 2):
        write(tmp_path / "ada" / f"{number}.ladder.json", ladder("ada", *chain(number + 1)))
    found = collect(tmp_path)
    assert submitted_board(found).learners == MOST_OF_ONE
    assert sum("at most 4 ladders of a learner are read" in note.text for note in found.notes) == 2


def test_a_new_ladder_beside_a_notebook_is_no_new_attempt(tmp_path: Path) -> None:
    path = write(tmp_path / "00.ipynb", notebook(SOLVED))
    before = digest(path)
    write(tmp_path / "ada.ladder.json", ladder("ada", *chain(1)))
    assert digest(path) == before
    write(tmp_path / "data.json", "{}")
    assert digest(path) != before


def test_no_ladder_is_an_empty_board(tmp_path: Path) -> None:
    assert read_board([]) == Board((), 0) == NO_BOARD
    write(tmp_path / "ada" / "00.ipynb", notebook(SOLVED))
    assert submitted_board(collect(tmp_path)) == NO_BOARD
