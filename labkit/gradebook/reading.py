"""Reads one notebook of a learner without running it: finds its labs, its hash, its time, and notes about its form.

This runs in a grader's process, because reading an unusual file can crash a process.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from labkit.errors import LabkitError
from labkit.exercises.registry import of_lab
from labkit.gradebook.remarks import remarks_on
from labkit.grading.notebook_check import labs_of
from labkit.grading.notebook_folder import small_files
from labkit.grading.shorten import shorten
from labkit.grading.submission import Submission, read_submission

RECEIPT = "timestamp.txt"
"""The file beside a notebook in which nbgrader keeps the time of the submission."""
FROM_RECEIPT, FROM_FILE = RECEIPT, "file time"
MOST_NOTES, MOST_NOTE = 20, 500
"""The largest number of notes on one notebook, and of characters in one note."""
_FORMAT = re.compile(rb'(?<!\\)"nbformat"\s*:\s*(\d{1,3})\b')


@dataclass(frozen=True)
class Reading:
    """What is known about a notebook before any of its code runs.

    `labs` contains each lab for which the notebook defines functions, with the number of these functions. `sha256` is the hash
    of the submission (see `digest`), `submitted` is its time in UTC (ISO 8601), and `time_from` says where the time was found.
    If the notebook cannot be graded, `problem` says why.
    """

    sha256: str
    submitted: str
    time_from: str
    labs: dict[str, int]
    notes: tuple[str, ...]
    problem: str = ""


def read_notebook(path: Path) -> Reading:
    """Read a notebook. Raises `OSError` if the file cannot be read, and `ValueError` if its time is out of range.

    No other exception is raised, even if the file is not a notebook.
    """
    sha256 = digest(path)
    submitted, time_from, notes = time_of(path)
    labs: dict[str, int] = {}
    problem = ""
    try:
        submission = read_submission(path)
        labs = labs_of(submission)
        notes += _notes_on(path, submission, labs)
        if not labs:
            problem = "The notebook defines none of the functions of the course, so it is not graded."
    except LabkitError as error:
        problem = str(error).replace(str(path), "The file")
    except Exception as error:  # The notebook may contain anything.
        problem = f"The notebook cannot be read: {shorten(repr(error))}"
    short = [shorten(note, MOST_NOTE) for note in notes[:MOST_NOTES]]
    short += [f"There are {len(notes) - MOST_NOTES} more notes."] if len(notes) > MOST_NOTES else []
    return Reading(sha256, submitted.isoformat(timespec="seconds"), time_from, labs, tuple(short), problem)


def _notes_on(path: Path, submission: Submission, labs: dict[str, int]) -> list[str]:
    found = _FORMAT.findall(path.read_bytes())
    older = found and int(found[-1]) < 4
    notes = [f"The notebook is in the old format nbformat {int(found[-1])}; its cells were read anyway."] if older else []
    exercises = [exercise for lab in labs for exercise in of_lab(lab)]
    return [*notes, *submission.notes, *remarks_on(submission.cells, exercises)]


def digest(path: Path) -> str:
    """The SHA-256 of a submission, over the bytes of the notebook and of the small files beside it that its code can read.

    The receipt (`timestamp.txt`) is left out, so a notebook that is collected twice is still the same submission.
    """
    total = hashlib.sha256(hashlib.sha256(path.read_bytes()).digest())
    for other in small_files(path.parent):
        if other.name != RECEIPT:
            total.update(hashlib.sha256(other.name.encode("utf-8", "surrogateescape")).digest())
            total.update(hashlib.sha256(other.read_bytes()).digest())
    return total.hexdigest()


def time_of(path: Path) -> tuple[datetime, str, list[str]]:
    """The time of a submission in UTC, where it was found, and notes.

    The time is taken from the receipt (`timestamp.txt`) or, without a receipt, from the notebook file.
    """
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    receipt = path.parent / RECEIPT
    if receipt.is_symlink() or not receipt.is_file() or receipt.stat().st_size > 1000:
        return changed, FROM_FILE, []
    text = receipt.read_text("utf-8", "replace").strip()
    try:
        found = datetime.fromisoformat(re.sub(r" UTC$", "+00:00", text))
        if found.tzinfo is None:
            raise ValueError
        return found.astimezone(UTC), FROM_RECEIPT, []
    except (ValueError, OverflowError):
        note = (
            f"{RECEIPT} contains {shorten(text, 60)!r}, which is not a time with UTC or an offset, such as "
            "'2026-10-05 23:59:00 UTC'; the file's time was used instead."
        )
        return changed, FROM_FILE, [note]
