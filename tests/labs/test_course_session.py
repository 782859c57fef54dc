"""The sums in docs/course_session.md agree with the exercises, and its commands, options and links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labkit.cli import COMMANDS
from labkit.exercises.core_path import CORE, FULL, SECTION_MINUTES, minutes_of, numbers_of, on_track, points_of
from labkit.exercises.registry import all_exercises
from labkit.exercises.titles import LAB_TITLES
from labkit.serving.server.install import DOWNLOAD_MEGABYTES
from labkit.session.labs import FREE_DISK_BYTES, GIB, MEMORY_BYTES
from labkit.session.setup_steps import OTHER_MEGABYTES, TORCH_MEGABYTES, TORCH_NOTE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/course_session.md").read_text("utf-8")
MINUTES = {exercise.number: exercise.minutes for exercise in all_exercises()}
CORE_NUMBERS = {exercise.number for exercise in all_exercises() if exercise.core}
DAY = 6 * 60


def section(title: str) -> str:
    """The text of a section of the page."""
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def tables(text: str) -> list[list[list[str]]]:
    """The tables in a text, as lists of rows without the header; a row is a list of cells."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]] for table in found]


def parts_of(cell: str) -> list[tuple[str, str]]:
    """The labs that a cell names, each with the part of the lab that learners do: "core path", "all of it", or the numbers of
    exercises.
    """
    return [(lab, what) for lab, what in re.findall(r"lab (\d\d), (core path|all of it|exercises? [\d., and]+\d)", cell)]


def minutes_in(cell: str) -> int:
    """The sum of the minutes of all parts that a cell names."""
    total = 0
    for lab, what in parts_of(cell):
        if what in ("core path", "all of it"):
            total += minutes_of(lab, CORE if what == "core path" else FULL)
        else:
            total += sum(MINUTES[number] for number in re.findall(r"\d\.\d+", what))
    return total


def test_the_table_of_the_core_paths() -> None:
    rows = tables(PAGE)[0]
    assert rows == [
        [
            *(lab, numbers_of(on_track(lab, CORE)), str(minutes_of(lab, CORE)), str(points_of(lab, CORE))),
            *(str(minutes_of(lab, FULL)), str(points_of(lab, FULL))),
        ]
        for lab in LAB_TITLES
    ]


ONE_DAY = [lab for lab in LAB_TITLES if lab < "05"]
"""The labs in the timetable of one day. The text above the timetable says how a later lab can replace one of these labs."""
TWO_DAYS = [lab for lab in LAB_TITLES if lab < "06"]
"""The labs in the timetable of two days. The text above the timetable says how a later lab can replace one of these labs."""
LATER = [lab for lab in LAB_TITLES if lab not in TWO_DAYS]


@pytest.mark.parametrize(("title", "days", "labs"), [("One day: six hours", 1, ONE_DAY), ("Two days", 2, TWO_DAYS)])
def test_a_timetable_adds_up(title: str, days: int, labs: list[str]) -> None:
    found = tables(section(title))
    assert len(found) == days
    done: set[str] = set()
    for rows in found:
        now = 0
        for begins, minutes, what in rows:
            hours, rest = begins.split(":")
            assert 60 * int(hours) + int(rest) == now, what
            now += int(minutes or 0)
            if parts_of(what):
                assert int(minutes) == minutes_in(what), what
                done |= {lab for lab, _ in parts_of(what)}
            else:
                assert re.match(r"(talk|break|closing|end)\b", what)
        assert now == DAY
    assert done == set(labs)
    text = section(title)
    for lab in labs:
        assert f"lab {lab}, core path" in text or f"lab {lab}, all of it" in text


def test_the_core_path_of_a_later_lab_fits_in_the_place_of_another() -> None:
    one, two = (" ".join(section(title).split()) for title in ("One day: six hours", "Two days"))
    assert f"The core paths of labs 05, {', '.join(LATER[:-1])} and {LATER[-1]} take as long as the core path of lab 04" in one
    names = f"{', '.join(LATER[:-1])} and {LATER[-1]}"
    assert f"The core paths of labs {names} take {minutes_of('05', CORE)} minutes each" in two
    assert {minutes_of(lab, CORE) for lab in ["04", "05", *LATER]} == {minutes_of("05", CORE)}


def test_the_seven_weeks_have_each_exercise_once() -> None:
    (rows,) = tables(section("Seven weeks"))
    assert [row[0] for row in rows] == [str(week) for week in range(1, 8)]
    numbers: list[str] = []
    for _, in_class, minutes, at_home, more in rows:
        assert (int(minutes), int(more)) == (minutes_in(in_class), minutes_in(at_home))
        assert int(minutes) <= 120
        for lab, what in parts_of(f"{in_class}; {at_home}"):
            core = [exercise.number for exercise in on_track(lab, CORE)]
            numbers += core if what == "core path" else re.findall(r"\d\.\d+", what)
    assert sorted(numbers) == sorted(MINUTES)
    rest = [(sections.full - sections.core, lab) for lab, sections in SECTION_MINUTES.items()]
    first, *others = rest
    *middle, last = [f"{minutes} in lab {lab}" for minutes, lab in others]
    words = f"they take {first[0]} more minutes in lab {first[1]}, {', '.join(middle)} and {last}."
    assert words in " ".join(section("Seven weeks").split())


def test_what_labs_need_is_what_doctor_says() -> None:
    (rows,) = tables(section("What each lab needs"))
    disk = f"{FREE_DISK_BYTES / GIB:g} GiB"
    assert [[row[0], *row[2:]] for row in rows] == [[lab, f"{MEMORY_BYTES[lab] / GIB:g} GiB", disk] for lab in LAB_TITLES]
    text = " ".join(section("What each lab needs").split())
    assert f"{TORCH_MEGABYTES} MB for a CPU build of torch ({re.findall('[0-9,]+ MB', TORCH_NOTE)[0]} for a CUDA build)" in text
    assert f"{OTHER_MEGABYTES} MB for the other packages, and {DOWNLOAD_MEGABYTES} MB for the Triton server" in text
    minutes = 8 * (TORCH_MEGABYTES + OTHER_MEGABYTES + DOWNLOAD_MEGABYTES) / 50 / 60
    assert f"take {minutes:.1f} minutes" in text


def test_every_exercise_on_a_core_path_has_a_slide_or_follows_one() -> None:
    """The table names only labs and exercises on the core path, and at least two exercises of each lab."""
    (rows,) = tables(section("What to say where"))
    named = [row[0] for row in rows]
    assert {name for name in named if "." in name} <= CORE_NUMBERS
    assert {name.removeprefix("lab ") for name in named if "." not in name} <= set(LAB_TITLES)
    for lab in LAB_TITLES:
        assert sum(name.startswith(f"{int(lab)}.") for name in named) >= 2


def test_commands_and_links_exist() -> None:
    assert set(re.findall(r"labkit (\w+) ", PAGE)) <= set(COMMANDS)
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]
    anchors = [link.removeprefix("#") for link in re.findall(r"\]\((#[^)]+)\)", PAGE)]
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^##+ (.+)$", PAGE, re.MULTILINE)
    }
    assert set(anchors) <= headings
