"""`labkit solution`, `labkit ladder` and `labkit board` as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit.measure import Ladder, Task
from tests.cli.test_commands import Done, last_json, many
from tests.gradebook.test_board import chain, ladder
from tests.gradebook.test_exports import Reader

FILE = "ada.ladder.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a ladder, and a folder with the files of other learners."""
    folder = tmp_path_factory.mktemp("ladders")
    own = Ladder(folder / "ladder.json")
    for name, speed in (("Hugging Face", 10.0), ("cache", 30.0)):
        own.add(Task("gptj-tiny", 1, 64, 64), name, speed, runs=5)
    (folder / "bob.json").write_text(ladder("bob", *chain(20, 50)))
    (folder / "bad.json").write_text("hello")
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def done(place: Path) -> dict[str, Done]:
    file, bob, bad, out = (str(place / name) for name in (FILE, "bob.json", "bad.json", "board.html"))
    commands = {
        "print": ["ladder"],
        "export": ["ladder", "--export", file, "--name", "ada", "--json"],
        "export over a text": ["ladder", "--export", str(place / "notes.txt"), "--name", "ada"],
        "board": ["board", file, bad, bob, "--out", out, "--json"],
        "board again": ["board", bob, "--out", out],
        "board of nothing": ["board", bad, str(place / "gone.json"), "--out", str(place / "none.html")],
        "board over a text": ["board", bob, "--out", str(place / "notes.txt")],
        "give up": ["solution", "kv_cache_bytes", "--give-up", "--json"],
        "again": ["solution", "kv_cache_bytes"],
        "no solutions": ["solution", "weight_gib", "--give-up", "--course", str(place)],
    }
    return dict(zip(commands, many(place, *commands.values()), strict=True))


def test_a_ladder_is_printed_and_exported(done: dict[str, Done], place: Path) -> None:
    assert "3.0 x" in done["print"].out
    assert last_json(done["export"])["file"] == str(place / FILE)
    assert f"To share, hand in {place / FILE}. It contains your name 'ada'" in done["export"].out
    assert json.loads((place / FILE).read_text())["name"] == "ada"


def test_the_board_is_a_page_and_a_text(done: dict[str, Done], place: Path) -> None:
    report = last_json(done["board"])
    assert (report["page"], report["learners"], report["devices"], len(report["remarks"])) == (
        str(place / "board.html"),
        2,
        2,
        1,
    )
    assert f"note: {place / 'bad.json'} is not a speed ladder: " in done["board"].errors
    assert done["board"].errors.count("\n") == 1
    assert "30.0 tokens/s (30.0 to 30.0)  3.0 x" in done["board"].out
    assert done["board again"].status == 0
    page = Reader((place / "board.html").read_text("utf-8")).text
    assert "bob" in page
    assert "ada" not in page


def test_other_files_are_not_overwritten(done: dict[str, Done], place: Path) -> None:
    for name, said in (("export over a text", "is not a ladder"), ("board over a text", "is not an HTML page")):
        assert done[name].status == 2
        assert said in done[name].errors
    assert (place / "notes.txt").read_text() == "mine"


def test_a_board_of_nothing_says_why(done: dict[str, Done], place: Path) -> None:
    found = done["board of nothing"]
    assert found.status == 2
    assert [line.split(":")[0] for line in found.errors.splitlines()] == ["note", "note", "labkit"]
    assert "none of these files has a speed ladder" in found.errors
    assert not (place / "none.html").exists()


def test_a_solution_is_shown_after_an_explicit_give_up(done: dict[str, Done], place: Path) -> None:
    report = last_json(done["give up"])
    assert (report["exercise"], report["given_up"]) == ("lab00.kv_cache_bytes", True)
    assert "return 2 * config.num_layers" in report["solution"]
    assert report["solution"] in done["give up"].out
    assert report["solution"] in done["again"].out
    progress = json.loads((place / "progress.json").read_text())
    assert progress["lab00.kv_cache_bytes"]["given_up"]
    assert done["no solutions"].status == 1
    assert f"{place} has no solution of exercise 0.2; ask your instructor" in done["no solutions"].errors
    assert not progress["lab00.weight_gib"]["given_up"]
