"""`labkit grade` grades a class: every form of submission gets the right verdict, and a killed run can be continued."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from labkit.gradebook.names import page_name
from tests.gradebook.classes import HALF, HALF_SAYS, HEAD, SOLVED, STUB, grade, notebook, start, write
from tests.gradebook.test_board import chain, ladder
from tests.patience import is_running, wait_for

FORMULA, CYRILLIC = "=1+1", "\u0430da"
NASTY = "<script>alert(1)</script> \u202e \ud800"
RAISES = f"{HEAD}raise ValueError({NASTY!a})"

Rows = dict[tuple[str, str], dict[str, str]]


class Graded(NamedTuple):
    """The outcome of `labkit grade`: the folder of grades, the JSON object, stderr, and the rows of items.csv."""

    out: Path
    report: dict[str, Any]
    errors: str
    items: Rows


def items_of(out: Path) -> Rows:
    with (out / "items.csv").open(encoding="utf-8", newline="") as file:
        return {(row["learner"], row["exercise"]): row for row in csv.DictReader(file)}


def query(out: Path, text: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{out / 'gradebook.sqlite'}?mode=ro", uri=True)) as base:
        return base.execute(text).fetchall()


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("class") / "submissions"
    write(root / "ada" / "00.ipynb", notebook("%time import os", SOLVED, "check(kv_cache_bytes)", "check(kv_cache_bytes)"))
    write(root / CYRILLIC / "00.ipynb", notebook(STUB))
    write(root / "bert" / "lab00" / "00.ipynb", notebook(HALF, text_cells=("check(kv_cache_bytes)",)))
    write(root / FORMULA / "00.ipynb", notebook(RAISES))
    write(root / "dies" / "00.ipynb", notebook(f"{HEAD}import os; os._exit(0)"))
    write(root / "conflict" / "00.ipynb", "<<<<<<< HEAD\n{}\n=======\n[]\n>>>>>>> theirs\n")
    (root / "empty").mkdir()
    write(root / "ada" / "ladder.json", ladder("ada", *chain(10, 30)))
    write(root / "bert" / "bert.ladder.json", "{}")
    return root


@pytest.fixture(scope="module")
def whole(submissions: Path) -> Graded:
    """The class, graded in one run with one job."""
    out = submissions.parent / "whole"
    text, errors = grade(submissions, "--out", out, "--json")
    return Graded(out, json.loads(text.splitlines()[-1]), errors, items_of(out))


@pytest.fixture(scope="module")
def killed(submissions: Path) -> tuple[Path, int]:
    """The class, graded with two jobs: a first run is killed by SIGKILL, and a second run grades the rest.

    Returns the folder of grades, and the number of submissions that were in the gradebook when the first run was killed.
    """
    out = submissions.parent / "killed"
    process = start(submissions, "--out", out, "--jobs", "2")

    def finished() -> int:
        try:
            return int(query(out, "SELECT count(*) FROM grading")[0][0])
        except sqlite3.Error:  # The gradebook does not exist yet.
            return 0

    wait_for(finished, "the first submission in the gradebook")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = finished()
    wait_for(lambda: not any(map(is_running, children)), "the end of all that the killed run had started")
    grade(submissions, "--out", out, "--jobs", "2")
    return out, before


VERDICTS = {
    "ada": ("passed", 10, "agree with the reference"),
    CYRILLIC: ("not attempted", 0, "still raises NotImplementedError"),
    "bert": ("failed", 0, HALF_SAYS),
    f"'{FORMULA}": ("error", 0, "it raised ValueError: <script>"),
    "dies": ("error", 0, "ended before your function answered"),
    "conflict": ("not attempted", 0, "could not be read"),
    "empty": ("not attempted", 0, "No notebook of this lab was submitted"),
}


@pytest.mark.parametrize("learner", VERDICTS)
def test_each_submission_has_its_verdict(learner: str, whole: Graded) -> None:
    verdict, points, said = VERDICTS[learner]
    row = whole.items[learner, "lab00.kv_cache_bytes"]
    assert (row["verdict"], float(row["points"])) == (verdict, points)
    assert said in row["message"]


def test_every_item_is_there_and_zero_is_the_default(whole: Graded) -> None:
    assert len(whole.items) == len(VERDICTS) * 6
    others = [row for (_, name), row in whole.items.items() if name != "lab00.kv_cache_bytes"]
    assert {(row["verdict"], row["points"]) for row in others} == {("not attempted", "0")}
    assert whole.report["submissions"] == 5
    assert whole.report["verdicts"] == {"passed": 1, "failed": 1, "error": 2, "not attempted": 38}
    assert Path(whole.report["gradebook"]) == whole.out / "gradebook.sqlite"


def test_progress_is_on_stderr(whole: Graded) -> None:
    assert "[5/5]" in whole.errors
    assert "Traceback" not in whole.errors
    assert "look alike" in whole.errors


def test_pages_contain_no_markup_of_a_submission(whole: Graded) -> None:
    pages = [path.read_text("utf-8") for path in whole.out.rglob("*.html")]
    assert len(pages) == 1 + len(VERDICTS)
    assert not [page for page in pages if "<script" in page or "\u202e" in page or "src=" in page or "http:" in page]
    page = (whole.out / "feedback" / page_name(FORMULA)).read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\u202e \\ud800" in page
    assert "case: " not in page


def test_notes_say_what_was_odd(whole: Graded) -> None:
    notes = {
        (name, text) for name, text in query(whole.out, "SELECT name, text FROM note JOIN learner ON learner.id = learner")
    }
    for learner, said in [
        ("ada", "Magics or shell commands are in cell 1"),
        ("ada", "The check of kv_cache_bytes is in cells 3 and 4"),
        ("bert", "The check of kv_cache_bytes in cell 2 is not in a code cell"),
        ("conflict", "in conflict after a merge: line 1"),
        ("empty", "no notebook that can be read"),
        ("bert", "The file is not a speed ladder: its kind is None"),
    ]:
        assert [text for name, text in notes if name == learner and said in text], (learner, said)
    assert not [text for _, text in notes if str(whole.out.parent) in text]


def test_the_page_of_the_class_shows_the_ladders(whole: Graded) -> None:
    page = (whole.out / "class.html").read_text("utf-8")
    assert page.count("<h2>Speed ladders</h2>") == 1
    assert "30.0 tokens/s" in page


@pytest.mark.long
def test_a_killed_run_goes_on_without_grading_twice(killed: tuple[Path, int]) -> None:
    out, before = killed
    assert before >= 1
    gradings = query(out, "SELECT attempt, run FROM grading ORDER BY run")
    assert len(gradings) == len({attempt for attempt, _ in gradings}) == 5
    assert [run for _, run in gradings].count(1) == before
    assert [finished is None for (finished,) in query(out, "SELECT finished FROM run ORDER BY id")] == [True, False]


@pytest.mark.long
def test_two_jobs_and_a_kill_give_the_same_gradebook(whole: Graded, killed: tuple[Path, int]) -> None:
    results = (
        "SELECT name, lab, file, sha256, exercise, verdict, points, message, details FROM current_result"
        " JOIN attempt ON attempt.id = attempt JOIN learner ON learner.id = learner ORDER BY name, exercise"
    )
    assert query(whole.out, results) == query(killed[0], results)
    for name in ("items.csv", "lab_00.csv", "canvas.csv", "moodle.csv", "class.html"):
        assert (whole.out / name).read_bytes() == (killed[0] / name).read_bytes()


@pytest.mark.long
def test_a_changed_notebook_is_an_attempt_and_a_regrade_is_history(
    submissions: Path, whole: Graded, killed: tuple[Path, int]
) -> None:
    """This test changes the folder of the killed run, so it comes after the test that compares both runs."""
    out, _ = killed
    later = submissions / "bert" / "lab00" / "00.ipynb"
    text, times = later.read_text(), later.stat()
    try:
        write(later, notebook(SOLVED))
        os.utime(later, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
        said, _ = grade(submissions, "--out", out)
        assert "1 submission graded, 4 graded before" in said
        assert items_of(out)["bert", "lab00.kv_cache_bytes"]["verdict"] == "passed"
        grade(submissions, "--out", out, "--regrade", "bert:kv_cache_bytes")
    finally:
        write(later, text)
        os.utime(later, ns=(times.st_atime_ns, times.st_mtime_ns))
    history = query(
        out,
        "SELECT number, is_regrade, count(*), total(points) FROM grading JOIN result ON grading.id = grading"
        " JOIN attempt ON attempt.id = attempt JOIN learner ON learner.id = learner"
        " WHERE name = 'bert' GROUP BY grading.id ORDER BY grading.id",
    )
    assert history == [(1, 0, 6, 0.0), (2, 0, 6, 10.0), (2, 1, 1, 10.0)]


REFUSED: dict[str, tuple[Callable[[Path], list[str | Path]], str]] = {
    "no folder": (lambda root: [root / "gone"], "cannot be read"),
    "no learner": (lambda root: [root.parent / "none"], "has no learner's folder"),
    "no lab": (lambda root: [root, "--lab", "77"], "there is no lab '77'"),
    "no jobs": (lambda root: [root, "--jobs", "0"], "jobs is 0"),
    "no policy": (lambda root: [root, "--policy", root / "gone.toml"], "cannot be read"),
    "regrade nobody": (lambda root: [root, "--regrade", "../ada"], "no submission of '../ada'"),
    "regrade nothing": (lambda root: [root, "--regrade", "ada:nothing"], "no exercise asks for"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_use_is_one_sentence(name: str, submissions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from labkit.cli.grade import grade as command
    from labkit.cli.output import report_errors

    (submissions.parent / "none").mkdir(exist_ok=True)
    make, said = REFUSED[name]
    place, *rest = make(submissions)
    options = {str(rest[at]).strip("-"): rest[at + 1] for at in range(0, len(rest), 2)}
    values: dict[str, Any] = {
        key: int(str(value)) if key == "jobs" else [value] if key == "regrade" else value for key, value in options.items()
    }
    with pytest.raises(SystemExit) as end:
        report_errors(command)(Path(place), submissions.parent / "refused", **values)
    errors = capsys.readouterr().err
    assert end.value.code == 2
    assert said in errors.splitlines()[-1]
    assert not (submissions.parent / "refused" / "gradebook.sqlite").exists()


def test_grades_inside_the_submissions_are_refused(submissions: Path) -> None:
    _, errors = grade(submissions, "--out", submissions / "grades", status=2)
    assert "are inside the submissions" in errors
    assert not (submissions / "grades").exists()
