"""The real nbgrader makes an assignment from lab 00, validates it and grades it; labkit writes scores to its gradebook."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.errors import InvalidRequest
from labkit.exercises.registry import of_lab
from labkit.gradebook.book import Attempt, Item
from labkit.gradebook.policy import Policy
from labkit.gradebook.report import Report
from labkit.gradebook.scores import lab_score
from labkit.grading.nbgrader_cells import answer_id, check_id
from tests.gradebook.classes import EXERCISE, HALF, HALF_SAYS, grade

ROOT = Path(__file__).parents[2]
FILE = "00_class_environment.ipynb"
CONFIG = "c = get_config()\nc.ClearSolutions.enabled = False\nc.Execute.timeout = 1200\n"
CHECKS = [check_id(exercise) for exercise in of_lab("00")]
MOST = {check_id(exercise): exercise.points for exercise in of_lab("00")}
WRONG = check_id(EXERCISE)


def scores(book: Path, assignment: str, notebook: str, learner: str) -> dict[str, float]:
    """The points that nbgrader's gradebook has for each check cell."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{book}", course_id="") as found:
        return {grade.name: grade.score for grade in found.find_submission_notebook(notebook, assignment, learner).grades}


def comment(book: Path, assignment: str, notebook: str, learner: str) -> str:
    """The comment on the answer to the exercise `classes.EXERCISE`."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{book}", course_id="") as found:
        return str(found.find_comment(answer_id(EXERCISE), notebook, assignment, learner).comment)


# Filling without any execution ------------------------------------------------------------------------------------------
def report(verdicts: dict[str, str], days_late: int = 0, track: str = "full") -> Report:
    """A group of learners. Each learner has the same verdict on every exercise of lab 00. A learner with an empty verdict has
    submitted nothing.
    """
    deadline = datetime(2026, 10, 5, 12, tzinfo=UTC)
    policy = Policy({"00": deadline}, 10, track=track)
    rows = []
    for learner, verdict in verdicts.items():
        items = {
            one.name: Item(one.name, one.title, verdict, one.points if verdict == "passed" else 0, one.points, "words", "")
            for one in of_lab("00")
        }
        submitted = deadline.replace(day=5 + days_late)
        attempts = [Attempt(learner, "00", 1, "00.ipynb", "0" * 64, submitted, "file time", items)] if verdict else []
        rows.append(lab_score(learner, "00", attempts, policy))
    return Report(tuple(verdicts), ("00",), tuple(rows), (), track)


def test_a_new_gradebook_has_students_points_and_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbgrader.api import Gradebook

    from labkit.gradebook.nbgrader_book import fill

    monkeypatch.setenv("PATH", "")
    book = tmp_path / "gradebook.db"
    names = {"ada": "passed", "bert": "not measured here", "carl": "", "=1+1": "failed"}
    fill(book, report(names, days_late=1))
    assert os.environ["PATH"] == ""
    assert scores(book, "lab00", "lab00", "ada") == MOST
    assert set(scores(book, "lab00", "lab00", "=1+1").values()) == {0}
    assert comment(book, "lab00", "lab00", "bert") == "not measured here: words"
    with Gradebook(f"sqlite:///{book}", course_id="") as found:
        assert {student.id for student in found.students} == set(names)
        assert {one.student.id for one in found.assignment_submissions("lab00")} == {"ada", "bert", "=1+1"}
        assert found.find_submission("lab00", "ada").late_submission_penalty == pytest.approx(sum(MOST.values()) / 10)
        assert found.find_submission("lab00", "ada").timestamp == datetime(2026, 10, 6, 12)
        assert found.find_submission("lab00", "bert").needs_manual_grade
        assert not found.find_submission("lab00", "=1+1").needs_manual_grade


@pytest.mark.long
def test_on_the_core_track_extras_have_no_points(tmp_path: Path) -> None:
    from nbgrader.api import Gradebook

    from labkit.gradebook.nbgrader_book import fill

    core = {check_id(one): one.points for one in of_lab("00") if one.core}
    new, full = tmp_path / "new.db", tmp_path / "full.db"
    fill(new, report({"ada": "passed"}, track="core"))
    assert scores(new, "lab00", "lab00", "ada") == core
    fill(full, report({"ada": "failed"}))
    fill(full, report({"ada": "passed"}, days_late=1, track="core"))
    assert scores(full, "lab00", "lab00", "ada") == dict.fromkeys(MOST, 0) | core
    (extra,) = (one for one in of_lab("00") if not one.core)
    with Gradebook(f"sqlite:///{full}", course_id="") as found:
        assert found.find_submission("lab00", "ada").late_submission_penalty == pytest.approx(sum(core.values()) / 10)
        comment = found.find_comment(answer_id(extra), "lab00", "lab00", "ada").comment
    assert comment == "An extra, which does not count. passed: words"


def test_what_a_person_entered_is_kept(tmp_path: Path) -> None:
    from nbgrader.api import Gradebook

    from labkit.gradebook.nbgrader_book import fill

    book = tmp_path / "gradebook.db"
    fill(book, report({"ada": "failed"}))
    with Gradebook(f"sqlite:///{book}", course_id="") as found:
        found.find_grade(WRONG, "lab00", "lab00", "ada").manual_score = 4
        found.find_comment(answer_id(EXERCISE), "lab00", "lab00", "ada").manual_comment = "Nearly."
        found.db.commit()
    fill(book, report({"ada": "passed"}))
    assert scores(book, "lab00", "lab00", "ada") == MOST | {WRONG: 4}
    assert comment(book, "lab00", "lab00", "ada") == "Nearly."


def test_other_files_and_ambiguous_gradebooks_are_refused(tmp_path: Path) -> None:
    from nbgrader.api import Gradebook

    from labkit.gradebook.nbgrader_book import fill

    (tmp_path / "text.db").write_text("no gradebook, and more than a hundred characters long" * 10)
    with pytest.raises(InvalidRequest, match="is not a gradebook of the installed nbgrader"):
        fill(tmp_path / "text.db", report({"ada": "failed"}))
    book = tmp_path / "gradebook.db"
    fill(book, report({"ada": "failed"}))
    with Gradebook(f"sqlite:///{book}", course_id="") as found:
        found.add_assignment("spring")
        found.add_notebook("00", "spring")
        found.add_grade_cell(WRONG, "00", "spring", max_score=10, cell_type="code")
    with pytest.raises(InvalidRequest, match=r"lab 00 in several notebooks: .*spring/00"):
        fill(book, report({"ada": "failed"}))


# A course of the real nbgrader ------------------------------------------------------------------------------------------
def solved(notebook: Any) -> None:
    """Put the course's solutions into the answer cells."""
    solutions = nbformat.read(ROOT / "solutions" / FILE, as_version=4)
    answers = {cell.metadata.nbgrader.grade_id: cell.source for cell in solutions.cells if "nbgrader" in cell.metadata}
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata and cell.metadata.nbgrader.solution:
            cell.source = answers[cell.metadata.nbgrader.grade_id]


def one_wrong(notebook: Any) -> None:
    """Solve all exercises but one: its answer has a known mistake, and its check cell was changed."""
    solved(notebook)
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == answer_id(EXERCISE):
            cell.source = HALF
        elif cell.metadata.get("nbgrader", {}).get("grade_id") == WRONG:
            cell.source = "1"


LEARNERS: dict[str, Callable[[Any], None]] = {"ada": solved, "bert": one_wrong, "carl": lambda notebook: None}
POINTS = {"ada": MOST, "bert": MOST | {WRONG: 0}, "carl": dict.fromkeys(MOST, 0)}


class Course:
    """A course folder of nbgrader, in which the assignment lab00 was released and three learners have submitted it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.book = root / "gradebook.db"
        (root / "source" / "lab00").mkdir(parents=True)
        (root / "source" / "lab00" / FILE).write_bytes((ROOT / "labs" / FILE).read_bytes())
        (root / "nbgrader_config.py").write_text(CONFIG)
        self.nbgrader("generate_assignment", "lab00")
        for learner, change in LEARNERS.items():
            notebook = nbformat.read(root / "release" / "lab00" / FILE, as_version=4)
            change(notebook)
            (root / "submitted" / learner / "lab00").mkdir(parents=True)
            nbformat.write(notebook, root / "submitted" / learner / "lab00" / FILE)

    def nbgrader(self, *arguments: str) -> str:
        """Run a command of nbgrader in the course folder, and return its output."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        more = {"PATH": path, "LABKIT_HOME": str(self.root / "home"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "nbgrader", *arguments]
        done = subprocess.run(command, cwd=self.root, env=os.environ | more, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return Course(tmp_path_factory.mktemp("course"))


@pytest.mark.long
def test_validate_says_what_is_wrong_in_our_words(course: Course) -> None:
    said = course.nbgrader("validate", f"submitted/carl/lab00/{FILE}")
    assert f"VALIDATION FAILED ON {len(CHECKS)} CELL(S)" in said
    assert "kv_cache_bytes still raises NotImplementedError" in " ".join(said.split())
    assert "Success! Your notebook passes all the tests." in course.nbgrader("validate", f"submitted/ada/lab00/{FILE}")


@pytest.mark.long
def test_autograde_gives_the_points_of_our_checks_and_labkit_grade_adds_its_own(course: Course) -> None:
    notebook = Path(FILE).stem
    course.nbgrader("autograde", "lab00")
    assert {learner: scores(course.book, "lab00", notebook, learner) for learner in LEARNERS} == POINTS
    autograded = nbformat.read(course.root / "autograded" / "bert" / "lab00" / FILE, as_version=4)
    (output,) = next(cell.outputs for cell in autograded.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == WRONG)
    assert output.ename == "NoPoints"
    assert HALF_SAYS in output.evalue

    grade(course.root, "--out", course.root.parent / "grades", "--lab", "00", "--nbgrader", course.book)
    assert {learner: scores(course.book, "lab00", notebook, learner) for learner in LEARNERS} == POINTS
    assert comment(course.book, "lab00", notebook, "bert") == f"failed: {HALF_SAYS}"
    assert comment(course.book, "lab00", notebook, "ada").startswith("passed: ")
