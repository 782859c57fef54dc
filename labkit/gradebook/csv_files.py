"""CSV files for people and spreadsheets: one file with a row for each item, and one file for each lab."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from labkit.exercises.registry import exercise as find
from labkit.exercises.registry import of_lab
from labkit.gradebook.names import one_line, shown
from labkit.gradebook.report import Report
from labkit.gradebook.scores import LabScore
from labkit.home import write_atomically

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""The characters at the beginning of a cell that make a spreadsheet read it as a formula.

The list is from OWASP's page on CSV injection (https://owasp.org/www-community/attacks/CSV_Injection).
"""

Cell = str | float


def defused(text: str) -> str:
    """The text for a cell. If a spreadsheet could read the text as a formula, an apostrophe is put before it."""
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) else text


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a CSV file in UTF-8. Each text is changed by `one_line` and `defused` first. Numbers are written as numbers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for row in [header, *rows]:
        writer.writerow([defused(one_line(cell)) if isinstance(cell, str) else f"{cell:g}" for cell in row])
    write_atomically(path, file.getvalue())


def write_items(path: Path, report: Report) -> None:
    """Write one row for each learner, lab and exercise."""
    header = ["learner", "lab", "exercise", "title", "track", "verdict", "points", "out of", "attempt", "message"]
    rows: list[list[Cell]] = [
        [
            *(shown(score.learner), score.lab, item.exercise, item.title, find(item.exercise).track),
            *(item.verdict, item.points, item.out_of, _attempt(score), item.message),
        ]
        for score in report.scores
        for item in score.items
    ]
    write_csv(path, header, rows)


def write_lab(path: Path, report: Report, lab: str) -> None:
    """Write one row for each learner, with one column for each exercise of the lab.

    "score" is the number of points that count after the policy is applied, and "score out of" is the largest possible score.
    The next columns give the points before the policy is applied: in all exercises, and on the core path.
    """
    header = ["learner", "verdict", "score", "score out of", "points", "out of", "core points", "core out of"]
    header += ["not measured here", "attempt", "attempts"]
    header += ["submitted (UTC)", "time from", "days late", "remark"]
    exercises = of_lab(lab)
    rows: list[list[Cell]] = []
    for score in report.of_lab(lab):
        attempt = score.attempt
        row: list[Cell] = [shown(score.learner), score.verdict, score.score, score.most, *score.points.to_dict().values()]
        row += [score.not_measured, _attempt(score), score.attempts]
        row += [f"{attempt.submitted:%Y-%m-%d %H:%M:%S}" if attempt else "", attempt.time_from if attempt else ""]
        rows.append([*row, score.days_late, score.remark, *(item.points for item in score.items)])
    write_csv(path, [*header, *(f"{exercise.number} {exercise.function}" for exercise in exercises)], rows)


def _attempt(score: LabScore) -> Cell:
    return score.attempt.number if score.attempt else ""
