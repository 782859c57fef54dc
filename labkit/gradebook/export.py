"""Writes all files that are made from a gradebook. Every run writes them anew; only the gradebook keeps history."""

from __future__ import annotations

from pathlib import Path

from labkit.gradebook.board import Board
from labkit.gradebook.class_page import class_page
from labkit.gradebook.csv_files import write_items, write_lab
from labkit.gradebook.feedback_page import feedback_page
from labkit.gradebook.lms_files import write_canvas, write_moodle
from labkit.gradebook.names import page_name
from labkit.gradebook.report import Report
from labkit.home import write_atomically


def export(out: Path, report: Report, board: Board) -> None:
    """Write the CSV files, the page of the class, and one page for each learner into the folder `out`.

    `board` holds the speed ladders for the page of the class.
    """
    write_items(out / "items.csv", report)
    for lab in report.labs:
        write_lab(out / f"lab_{lab}.csv", report, lab)
    write_canvas(out / "canvas.csv", report)
    write_moodle(out / "moodle.csv", report)
    write_atomically(out / "class.html", class_page(report, board))
    for learner in report.learners:
        write_atomically(out / "feedback" / page_name(learner), feedback_page(report, learner))
