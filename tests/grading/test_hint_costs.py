"""Hints that cost points by the rule in `course.toml`: the cost is shown first, and counts in the panel and in the receipt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest
from labkit.exercises.registry import exercise as find
from labkit.gradebook.policy import read_policy
from labkit.grading import check, hint, passed, progress_panel, submit
from labkit.grading.hint_costs import hint_costs
from labkit.grading.progress import Progress
from tests.gradebook.classes import SOLVED, notebook, write

NAME = "lab00.kv_cache_bytes"
RULE = "[hints]\ncost = [0, 1, 2]\n"
FIRST = f"Hint 1 of 3 for 0.3: {find(NAME).hints[0]}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def kv_cache_bytes(config: Any, lengths: list[int], element_bytes: int) -> int:
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes


def wrong(config: Any, lengths: list[int], element_bytes: int) -> int:
    return len(lengths)


wrong.__name__ = "kv_cache_bytes"


# The rule ---------------------------------------------------------------------------------------------------------------
def test_the_rule_is_found_beside_the_notebook_first(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hint_costs() == (0, 0, 0)
    write(home / "course.toml", "[hints]\ncost = [3, 3, 3]")
    assert hint_costs() == (3, 3, 3)
    write(tmp_path / "course.toml", "[hints]\ncost = [2, 2, 2]")
    assert hint_costs() == (2, 2, 2)
    write(tmp_path / "labs" / "course.toml", 'most_attempts = 3\n[deadline]\n"00" = 2026-10-05T23:59:00Z\n' + RULE)
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "labs" / "00.ipynb"))
    assert hint_costs() == (0, 1, 2)
    write(tmp_path / "labs" / "course.toml", "most_attempts = 3")
    assert hint_costs() == (0, 0, 0)


@pytest.mark.parametrize(
    "text",
    ["hints = 3", "[hints]\ncosts = [0, 1, 2]"]
    + [f"[hints]\ncost = {cost}" for cost in ("1", "[0, 1]", "[0, 1, -1]", "[0, 1, 101]", "[0, 1, 0.5]", "[0, 1, true]")],
)
def test_a_wrong_rule_is_refused_for_learners_and_graders_alike(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "course.toml", text)
    for read in (hint_costs, lambda: read_policy(path)):
        with pytest.raises(InvalidRequest, match=r"hints in .*course\.toml is .*; give a table \[hints\] with cost = "):
            read()


def test_no_toml_is_named(tmp_path: Path) -> None:
    write(tmp_path / "course.toml", "=")
    with pytest.raises(InvalidRequest, match=r"the rules of the course in .* cannot be read"):
        progress_panel("00")


def test_the_rule_is_part_of_the_policy_of_a_class(tmp_path: Path) -> None:
    assert read_policy(write(tmp_path / "policy.toml", RULE)).hint_costs == (0, 1, 2)
    assert read_policy(write(tmp_path / "policy.toml", "")).hint_costs == (0, 0, 0)


# What it costs ----------------------------------------------------------------------------------------------------------
def test_the_cost_is_said_before_the_hint_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "course.toml", RULE)
    hint(kv_cache_bytes)
    assert capsys.readouterr().out == f"{FIRST}\n"
    hint(kv_cache_bytes)
    price = "The next hint costs 1 point. To open it: hint(kv_cache_bytes, pay=True)\n"
    assert capsys.readouterr().out == price
    assert (Progress().standings()[NAME].hints, Progress().standings()[NAME].hint_cost) == (1, 0)
    hint("kv_cache_bytes", pay=True)
    assert capsys.readouterr().out.startswith("Hint 2 of 3 for 0.3: ")
    hint(kv_cache_bytes, pay=True)
    hint(kv_cache_bytes)  # all three hints are shown again at no cost
    assert capsys.readouterr().out.count("Hint") == 4
    assert Progress().standings()[NAME].hint_cost == 3


def test_the_cost_counts_in_the_box_in_the_panel_and_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from labkit.grading.panel import _table

    write(tmp_path / "course.toml", RULE)
    for _ in range(3):
        hint(kv_cache_bytes, pay=True)
    progress_panel("00")
    said = capsys.readouterr().out
    assert "· 0.3 The size of the cache, 0/10, hints cost 3 points: not attempted" in said
    assert "Lab 00: 0 of 65 points" in said
    assert "Before a pass, the first hint of an exercise costs 0 points, the second 1, and the third 2." in said
    found = check(kv_cache_bytes)
    assert (found.verdict, found.points) == ("passed", 10)
    assert capsys.readouterr().out.rstrip().endswith("Your hints cost 3 points, so 7 count.")
    progress_panel("00")
    said = capsys.readouterr().out
    assert "✓ 0.3 The size of the cache, 7/10, hints cost 3 points: passed" in said
    assert "Lab 00: 7 of 65 points" in said
    assert "<td>7/10, hints cost 3, 3 hints</td>" in _table("00")
    assert "Lab 00: 7 of 65 points" in _table("00")
    check(wrong)
    assert "passed before (7 points kept); the last check failed" in capsys.readouterr().out
    assert not passed(wrong)
    assert "It passed before (7 points kept)" in capsys.readouterr().out


def test_a_pass_never_falls_below_zero_and_hints_after_it_are_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "course.toml", "[hints]\ncost = [9, 9, 9]")
    for _ in range(2):
        hint(kv_cache_bytes, pay=True)
    check(kv_cache_bytes)
    standing = Progress().standings()[NAME]
    assert (standing.points, standing.hint_cost, standing.earned) == (10, 18, 0)
    assert passed("kv_cache_bytes")
    hint(kv_cache_bytes)
    assert "Hint 3 of 3" in capsys.readouterr().out
    assert Progress().standings()[NAME].hint_cost == 18


def test_hints_that_were_free_stay_free(tmp_path: Path) -> None:
    hint(kv_cache_bytes)
    write(tmp_path / "course.toml", "[hints]\ncost = [5, 5, 5]")
    check(kv_cache_bytes)
    assert Progress().standings()[NAME].earned == 10


def test_progress_of_an_older_labkit_is_read(home: Path) -> None:
    old = {"verdict": "passed", "points": 10, "checks": 1, "hints": 2, "updated": "", "message": ""}
    write(home / "progress.json", json.dumps({NAME: old}))
    standing = Progress().standings()[NAME]
    assert (standing.earned, standing.hints, standing.given_up) == (10, 2, False)
    assert not (home / "progress.damaged").exists()


def test_the_receipt_counts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "course.toml", "[hints]\ncost = [1, 1, 1]")
    hint(kv_cache_bytes, pay=True)
    check(kv_cache_bytes)
    capsys.readouterr()
    exec("submit(path)", {"submit": submit, "path": write(tmp_path / "00.ipynb", notebook(SOLVED))})
    said = capsys.readouterr().out
    assert "your checks reached 9 of 65 points" in said
    assert "kv_cache_bytes: Your hints cost 1 point, so 9 count." in said
    (path,) = (tmp_path / "submitted").glob("*/receipt.json")
    receipt = json.loads(path.read_text("utf-8"))
    row = next(row for row in receipt["exercises"] if row["exercise"] == NAME)
    assert (receipt["points"], row["points"], row["hints"], row["hint_cost"], row["given_up"]) == (9, 9, 1, 1, False)


# The widget -------------------------------------------------------------------------------------------------------------
def test_the_button_says_the_cost_of_the_next_hint_of_the_chosen_exercise(tmp_path: Path) -> None:
    pytest.importorskip("ipywidgets", reason="not measured here: no ipywidgets")
    from labkit.grading.panel import _widget

    write(tmp_path / "course.toml", RULE)
    widget = _widget("00")
    chooser, button, _, _ = widget.children[1].children
    seen = []
    chooser.value = NAME
    for _ in range(4):
        seen.append(button.description)
        button.click()
    assert seen == ["Next hint", "Next hint (costs 1 point)", "Next hint (costs 2 points)", "Next hint"]
    assert widget.children[2].value.count("Hint") == 3
    assert "hints cost 3" in widget.children[0].value
    chooser.value = "lab00.weight_gib"
    Progress().next_hint("lab00.weight_gib", (0, 1, 2))
    chooser.value = NAME
    chooser.value = "lab00.weight_gib"
    assert button.description == "Next hint (costs 1 point)"
