"""Fills nbgrader's gradebook from a report: the students, their submissions, the points of each check cell, and comments."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from nbgrader.api import Gradebook
from sqlalchemy.exc import SAWarning, SQLAlchemyError

from labkit.errors import InvalidRequest
from labkit.exercises.core_path import on_track
from labkit.exercises.registry import exercise as find
from labkit.exercises.registry import of_lab
from labkit.gradebook.report import Report
from labkit.gradebook.scores import LabScore, counts
from labkit.grading.nbgrader_cells import answer_id, check_id
from labkit.grading.shorten import shorten
from labkit.grading.verdict import INCONCLUSIVE, NOT_MEASURED, UNGRADED


def fill(path: Path, report: Report) -> None:
    """Write the scores of a class to nbgrader's gradebook in this file; a missing file is created.

    If the policy's track is "core", an extra gets no points, and its comment says so.

    A lab's points go to the notebook that has the lab's check cells. If no notebook has them, an assignment and a notebook with
    the name "lab00" are added. Points, comments and corrections that a person has entered in nbgrader are kept.

    Raises `InvalidRequest` if the file is not a gradebook of the installed nbgrader, or if several notebooks have the cells of
    one lab.
    """
    try:
        with _quietly(), _finding_alembic(), Gradebook(f"sqlite:///{path.absolute()}", course_id="") as book:
            for learner in report.learners:
                book.update_or_create_student(learner)
            for lab in report.labs:
                assignment, notebook = _notebook_of(book, lab, report.track)
                for score in report.of_lab(lab):
                    if score.attempt:
                        _write(book, assignment, notebook, score)
    except SQLAlchemyError as error:
        raise InvalidRequest(
            f"{path} is not a gradebook of the installed nbgrader ({shorten(str(error))}); give another file with --nbgrader, "
            "or bring an older one up to date with `nbgrader db upgrade`"
        ) from None


@contextlib.contextmanager
def _finding_alembic() -> Iterator[None]:
    """Put the folder of the program `alembic` on PATH in this block, because nbgrader runs `alembic` for a new gradebook.

    The program is in Python's folder, which is not always on PATH. nbgrader's own `setenv` is not used, because it removes the
    variable PATH at its end.
    """
    before = os.environ.get("PATH")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before or ''}"
    try:
        yield
    finally:
        os.environ.pop("PATH")
        if before is not None:
            os.environ["PATH"] = before


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide SQLAlchemy's warnings about the order in which nbgrader adds the parts of a submission. All parts are stored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)
        yield


def _notebook_of(book: Gradebook, lab: str, track: str) -> tuple[str, str]:
    """The names of the assignment and of the notebook that have the check cells of a lab."""
    ids = {check_id(exercise) for exercise in of_lab(lab)}
    places = [
        (assignment.name, notebook.name)
        for assignment in book.assignments
        for notebook in assignment.notebooks
        if any(cell.name in ids for cell in notebook.grade_cells)
    ]
    if len(places) > 1:
        names = ", ".join("/".join(place) for place in places)
        raise InvalidRequest(
            f"nbgrader's gradebook has the check cells of lab {lab} in several notebooks: {names}; keep only one"
        )
    return places[0] if places else _new_notebook(book, lab, track)


def _new_notebook(book: Gradebook, lab: str, track: str) -> tuple[str, str]:
    name = f"lab{lab}"
    book.add_assignment(name)
    book.add_notebook(name, name)
    for exercise in on_track(lab, track):
        book.add_solution_cell(answer_id(exercise), name, name)
        book.add_grade_cell(check_id(exercise), name, name, max_score=exercise.points, cell_type="code")
    return name, name


def _write(book: Gradebook, assignment: str, notebook: str, score: LabScore) -> None:
    """Write one learner's score in one lab. nbgrader stores the late penalty separately from the points of the cells."""
    assert score.attempt is not None
    book.update_or_create_submission(assignment, score.learner, timestamp=score.attempt.submitted)
    submitted = book.find_submission_notebook(notebook, assignment, score.learner)
    grades = {grade.name: grade for grade in submitted.grades}
    comments = {comment.name: comment for comment in submitted.comments}
    for item in score.items:
        exercise = find(item.exercise)
        if grade := grades.get(check_id(exercise)):
            grade.auto_score = item.points if counts(item, score.track) else 0
            by_hand = item.verdict in (NOT_MEASURED, INCONCLUSIVE, UNGRADED)
            grade.needs_manual_grade = grade.manual_score is not None or by_hand
        if comment := comments.get(answer_id(exercise)):
            extra = "" if counts(item, score.track) else "An extra, which does not count. "
            comment.auto_comment = f"{extra}{item.verdict}: {item.message}"
    submitted.late_submission_penalty = score.counted - score.score or None
    book.db.commit()
