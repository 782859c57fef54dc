"""A class of cheats is graded in one run: no cheat gains a point, none harms anybody, and none stops the run."""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from labkit.gradebook.book import Submission
from labkit.gradebook.class_run import Summary, grade_class
from labkit.gradebook.names import name_of_folder
from labkit.grading.notebook_file import MOST_NOTEBOOK_BYTES
from labkit.grading.verdict import Verdict
from tests.gradebook.cheats import CHEATS
from tests.gradebook.cheats.cheat import MARKER
from tests.gradebook.cheats.submissions import PACKAGE, facts_of, submit
from tests.gradebook.classes import EXERCISE, HALF, HALF_SAYS, SOLVED, STUB, notebook, write
from tests.patience import is_running, wait_for
from tests.sandboxes import sandbox_or_skip

pytestmark = pytest.mark.long

SECRET = "a secret of this class"
HONEST, MISTAKEN = "honest", "mistaken"
WRITTEN = "written_by_a_cheat"
NAMES = (
    "h\u043enest",  # with a Cyrillic letter
    "--unsafe",
    "..%2f..%2fhonest",
    "two\nlines",
    f"$(touch {WRITTEN})",
    "'; DROP TABLE result; --",
)
"""Malicious names of learners. The notebooks of these learners hold the stub."""
NO_TEXT = b"honest\xff"


@dataclass(frozen=True)
class Graded:
    """The outcome of a run: its folder and summary, the verdicts by learner, and the files before and after."""

    root: Path
    summary: Summary
    verdicts: dict[str, Verdict]
    before: dict[str, str]
    after: dict[str, str]
    callers: int


class _Keeper:
    """Watches a run and records the verdicts on the exercise."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}

    def starts(self, items: int, submissions: int, known: int) -> None:
        """Nothing to keep."""

    def has(self, submission: Submission, verdict: Verdict) -> None:
        if verdict.exercise == EXERCISE.name:
            self.verdicts[submission.learner] = verdict

    def finished(self, submission: Submission) -> None:
        """Nothing to keep."""


def files_of(root: Path) -> dict[str, str]:
    """The SHA-256 of every file of labkit, of the solutions and of the class, except what the run is meant to write."""
    places = [PACKAGE, PACKAGE.parent / "solutions", *(root / name for name in ("submissions", "home", "temp"))]
    found = {str(path): "" for path in PACKAGE.parent.iterdir() if path.name == WRITTEN}
    for path in (path for place in places for path in place.rglob("*")):
        if "__pycache__" in path.parts or path.is_dir():
            continue
        is_plain = path.is_file() and not path.is_symlink() and path.stat().st_size < MOST_NOTEBOOK_BYTES
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if is_plain else f"{path.lstat().st_size} bytes"
    return found


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """The class, graded with two jobs. It has the cheats, the learners with malicious names, and two honest learners."""
    sandbox_or_skip()
    root = tmp_path_factory.mktemp("class")
    submissions = root / "submissions"
    (root / "temp").mkdir()
    write(root / "home" / "private.txt", SECRET)
    write(submissions / HONEST / "00.ipynb", notebook(SOLVED))
    write(submissions / MISTAKEN / "00.ipynb", notebook(HALF))
    for name in NAMES:
        write(submissions / name / "00.ipynb", notebook(STUB))
    os.mkdir(os.fsencode(submissions) + b"/" + NO_TEXT)
    write(Path(os.fsdecode(os.fsencode(submissions) + b"/" + NO_TEXT)) / "00.ipynb", notebook(STUB))
    write(submissions / "large" / "00.ipynb", notebook(SOLVED))
    with (submissions / "large" / "00.ipynb").open("r+b") as file:
        file.truncate(2 * MOST_NOTEBOOK_BYTES)  # a sparse file, which takes no space on disk
    (submissions / "linked").mkdir()
    (submissions / "linked" / "00.ipynb").symlink_to(submissions / HONEST / "00.ipynb")
    (submissions / "linked-whole").symlink_to(submissions / HONEST)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        server.settimeout(0)
        facts = facts_of(root, SECRET, HONEST, server.getsockname()[1])
        for name, cheat in CHEATS.items():
            submit(root, name, cheat, facts)
        patch.setenv("TMPDIR", str(root / "temp"))
        patch.setenv("LABKIT_HOME", str(root / "home"))
        patch.setenv("LABKIT_GRADE_SEED", SECRET)
        before = files_of(root)
        keeper = _Keeper()
        summary = grade_class(submissions, root / "grades", keeper, jobs=2, secret=SECRET)
        callers = 0
        try:
            server.accept()[0].close()
            callers = 1
        except BlockingIOError:
            pass
    return Graded(root, summary, keeper.verdicts, before, files_of(root), callers)


def test_an_honest_learner_keeps_the_points(graded: Graded) -> None:
    verdict = graded.verdicts[HONEST]
    assert (verdict.verdict, verdict.points) == ("passed", EXERCISE.points), verdict


def test_a_mistake_gets_its_own_sentence(graded: Graded) -> None:
    verdict = graded.verdicts[MISTAKEN]
    assert (verdict.verdict, verdict.points, verdict.message) == ("failed", 0, HALF_SAYS)


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gains_nothing(name: str, graded: Graded) -> None:
    """The words in the verdict show that the cheat came as far as it can, and did not fail earlier for another reason."""
    verdict = graded.verdicts[name]
    assert (verdict.points, verdict.verdict == "passed") == (0, False), verdict
    assert CHEATS[name].says in verdict.message + verdict.details, verdict


@pytest.mark.parametrize("name", [*NAMES, name_of_folder(os.fsdecode(NO_TEXT))])
def test_a_trick_in_a_name_gains_nothing(name: str, graded: Graded) -> None:
    verdict = graded.verdicts[name]
    assert (verdict.verdict, verdict.points) == ("not attempted", 0), verdict
    assert "still raises NotImplementedError" in verdict.message


def test_what_is_not_read_gains_nothing(graded: Graded) -> None:
    notes = {(note.learner, note.text) for note in graded.summary.report.notes}
    assert ("linked", "This is a symbolic link, which is not followed.") in notes
    assert [text for learner, text in notes if learner == "large" and "200 MiB; at most 100 MiB are read" in text]
    assert "linked-whole" not in graded.summary.report.learners
    assert {score.score for name in ("linked", "large") for score in graded.summary.report.of_learner(name)} == {0}


def test_only_the_honest_learner_has_points(graded: Graded) -> None:
    with closing(sqlite3.connect(f"file:{graded.summary.gradebook}?mode=ro", uri=True)) as base:
        rows = base.execute(
            "SELECT name, exercise, points FROM current_result JOIN attempt ON attempt.id = attempt"
            " JOIN learner ON learner.id = learner WHERE points > 0"
        ).fetchall()
        (unfinished,) = base.execute("SELECT count(*) FROM run WHERE finished IS NULL").fetchone()
        (gradings,) = base.execute("SELECT count(*) FROM grading").fetchone()
    assert rows == [(HONEST, EXERCISE.name, EXERCISE.points)]
    assert unfinished == 0
    assert gradings == len(graded.verdicts) == len(CHEATS) + len(NAMES) + 3


def test_nothing_of_others_has_changed(graded: Graded) -> None:
    assert graded.after == graded.before
    assert not [*graded.root.rglob(WRITTEN)]
    assert sorted(path.name for path in graded.root.iterdir()) == ["grades", "home", "submissions", "temp"]
    assert not [*(graded.root / "temp").iterdir()]


def test_nobody_was_called_and_nothing_runs_on(graded: Graded) -> None:
    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if is_running(process) and (MARKER in words or any(str(graded.root / "temp") in word for word in words)):
                found.append(process)
        return found

    assert graded.callers == 0
    wait_for(lambda: not left(), "the end of all processes of the cheats")
