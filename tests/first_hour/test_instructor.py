"""The instructor's first hour: the commands of `docs/course_session.md`, `docs/release_course.md` and `docs/gradebook.md`."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.first_hour.conftest import Course
from tests.first_hour.machine import NO_COMPILER, Machine
from tests.first_hour.pages import ROOT, block, command
from tests.sandboxes import sandbox_or_skip

pytestmark = pytest.mark.long

RUNG = "from labkit.measure import Ladder, Task\nLadder().add(Task('gptj-tiny', 1, 64, 64), 'cache', 30.0, runs=5)\n"


@pytest.fixture(scope="module")
def machine(course: Course) -> Machine:
    return course.machine


def test_the_machines_of_a_room_are_tested(machine: Machine) -> None:
    one = block("docs/course_session.md", "> ada.json").strip()
    machine.run(one)
    (machine.folder / "room").mkdir()
    shutil.move(machine.folder / "ada.json", machine.folder / "room" / "ada.json")
    said = machine.run(command("docs/course_session.md", "room/*.json"))
    assert "1 machine" in said


def test_a_course_of_two_labs_is_released(machine: Machine) -> None:
    replace(machine, more=machine.more | NO_COMPILER).run(command("docs/release_course.md", "--lab 00"))
    made = machine.folder / "dist" / "week1"
    assert len(list((made / "labkit-course" / "labs").glob("*.ipynb"))) == 2
    with zipfile.ZipFile(made / "labkit-course.zip") as archive:
        assert "labkit-course/Makefile" in archive.namelist()


def test_a_class_is_graded(tmp_path: Path) -> None:
    """The test uses the Python environment of the tests. In the copy's environment, packages are links, and the sandbox does
    not see the targets of the links.
    """
    sandbox_or_skip()
    for learner, folder in (("ada", "labs"), ("grace", "solutions")):
        place = tmp_path / "submissions" / learner
        place.mkdir(parents=True)
        shutil.copy(ROOT / folder / "00_class_environment.ipynb", place)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    Machine(tmp_path, tmp_path / "home").run(command("docs/gradebook.md", "--jobs 2 --seed"))
    grades = tmp_path / "grades"
    with (grades / "lab_00.csv").open(encoding="utf-8", newline="") as file:
        points = {row["learner"]: float(row["points"]) for row in csv.DictReader(file)}
    assert points == {"ada": 0, "grace": 65}
    assert {path.stem.partition("-")[0] for path in (grades / "feedback").glob("*.html")} == {"ada", "grace"}


def test_ladders_become_a_board(machine: Machine, tmp_path: Path) -> None:
    export, board = block("docs/gradebook.md", "labkit board").splitlines()
    (machine.folder / "rung.py").write_text(RUNG, "utf-8")
    machine.run(".venv/bin/python rung.py")
    machine.run(export)
    (machine.folder / "ladders").mkdir()
    exported = machine.folder / "ada.ladder.json"
    assert json.loads(exported.read_text("utf-8"))
    shutil.move(exported, machine.folder / "ladders")
    machine.run(board)
    assert "ada" in (machine.folder / "board.html").read_text("utf-8")
