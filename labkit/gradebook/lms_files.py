"""CSV files that Canvas and Moodle import. The name of a learner's folder must be the learner's login in that system."""

from __future__ import annotations

from pathlib import Path

from labkit.exercises.core_path import points_of
from labkit.exercises.titles import LAB_TITLES
from labkit.gradebook.csv_files import Cell, write_csv
from labkit.gradebook.names import shown
from labkit.gradebook.report import Report
from labkit.gradebook.scores import LabScore

_CANVAS_POINTS = "Points Possible"


def column_of(lab: str) -> str:
    """The name of a lab's column, which is also the name of the assignment: "Lab 00 Class environment"."""
    return f"Lab {lab} {LAB_TITLES[lab]}"


def write_canvas(path: Path, report: Report) -> None:
    """Write a file that Canvas can import (Gradebook, Import).

    Canvas's own importer looks for these columns (instructure/canvas-lms, lib/gradebook_importer.rb): the first
    column contains "Student", the second "ID"; "SIS User ID" and "SIS Login ID" follow, and "Section" is the last column before
    the assignments. A row whose first cell contains "Points Possible" gives the points of the assignments. If "ID" and
    "SIS User ID" are empty, Canvas finds a student by "SIS Login ID". An assignment is found by its title; if no assignment has
    this title, Canvas asks whether to create it. A lab that is still to be graded gets an empty cell, which is no grade.
    """
    header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *map(column_of, report.labs)]
    points: list[Cell] = [_CANVAS_POINTS, "", "", "", "", *(points_of(lab, report.track) for lab in report.labs)]
    rows: list[list[Cell]] = []
    for learner in report.learners:
        # Canvas would read the row of a student with this name as the row with the points.
        student = "" if _CANVAS_POINTS in learner else shown(learner)
        rows.append([student, "", "", shown(learner), "", *map(_grade, report.of_learner(learner))])
    write_csv(path, header, [points, *rows])


def write_moodle(path: Path, report: Report) -> None:
    """Write a file that Moodle can import (Grades, Import, CSV file).

    Moodle lets the teacher choose the meaning of each column (moodle/moodle, grade/import/csv/classes/load_data.php). It finds
    a user by id, ID number, email address or username; a grade must be a number of at most 100 unless the site allows more; and
    a column of feedback can be given for each grade item. The header has Moodle's own English names for these columns. A lab
    that is still to be graded gets two empty cells.
    """
    header = ["Username"]
    for lab in report.labs:
        header += [column_of(lab), f"Feedback: {column_of(lab)}"]
    rows: list[list[Cell]] = []
    for learner in report.learners:
        row: list[Cell] = [shown(learner)]
        for score in report.of_learner(learner):
            row += [_grade(score), "" if score.is_waiting else _feedback(score)]
        rows.append(row)
    write_csv(path, header, rows)


def _grade(score: LabScore) -> Cell:
    return "" if score.is_waiting else score.score


def _feedback(score: LabScore) -> str:
    """One line with the points, the remark, and the verdicts of all exercises without full points."""
    if score.attempt is None:
        return score.remark
    rest = "; ".join(f"{item.title}: {item.verdict}" for item in score.items if item.points < item.out_of)
    sums = f"{score.points.words}; {score.points.core_words}."
    return " ".join(filter(None, [sums, score.remark, rest and f"{rest}."]))
