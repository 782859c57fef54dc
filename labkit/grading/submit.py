"""`submit()`: makes a copy of the notebook to hand in, and a receipt. It sends nothing, and works offline."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit import __version__
from labkit.errors import NotAvailable
from labkit.exercises.core_path import Points, points
from labkit.exercises.exercise import Exercise
from labkit.grading.needed_code import needed_statements
from labkit.grading.notebook_check import asked_of
from labkit.grading.notebook_file import json_of
from labkit.grading.progress import Progress, Standing
from labkit.grading.python_cells import parse
from labkit.grading.same_as_run import same_as_run
from labkit.grading.stubs import stub_of
from labkit.grading.submission import Submission, read_submission
from labkit.grading.this_notebook import this_notebook
from labkit.home import make_new, write_atomically

AGAIN = "Run the cells of these functions, save the notebook (Ctrl+S), then run submit() again."


def submit(notebook: str | Path | None = None) -> None:
    """Check that the notebook's file is saved and contains the code that was run; then write a copy of the file and a receipt,
    and print their paths.

    The copy and the receipt go into a new folder in `submitted/`, beside the notebook. No older folder is changed. The receipt
    contains the SHA-256 of the copy, the time, the version of labkit, and the verdicts and points (in all, and on the core
    path) of the checks that were run in the notebook. If the code of a function in the file is not the code that was run, the
    function is named and nothing is written.

    notebook: the path of the file; without it, the path that Jupyter passed to the kernel. Raises `InvalidRequest` if the file
    is not known, is not a notebook, or defines no function of an exercise. Raises `NotAvailable` if the copy cannot be written.
    """
    if not Progress.is_kept:
        return
    names = sys._getframe(1).f_globals
    path = this_notebook(notebook, 'submit("00_class_environment.ipynb")')
    content = path.read_bytes()
    submission, stubs = read_submission(path), json_of(path)
    if path.read_bytes() != content:
        print("Nothing was written: the file changed while it was read. Run submit() again.")
        return
    standings = Progress().standings()
    answers = [
        _answer(one, standings[one.name], submission, stub_of(stubs, one.function) or "", names)
        for one in asked_of(submission, path)
    ]
    differing = sorted({name for answer in answers for name, is_same in answer.compared.items() if is_same is False})
    if differing:
        print(f"Nothing was written: the file {path.name} does not have the code that you ran: {', '.join(differing)}. {AGAIN}")
        return
    folder = _write(path, content, answers)
    print("\n".join(_words(path, folder, answers)))


@dataclass(frozen=True)
class _Answer:
    """An exercise in the notebook: whether it has an answer, its status, and the functions compared with the kernel."""

    exercise: Exercise
    standing: Standing
    is_there: bool
    compared: dict[str, bool | None]

    @property
    def is_what_was_run(self) -> bool:
        return bool(self.compared) and all(self.compared.values())

    def row(self) -> dict[str, Any]:
        return {
            "exercise": self.exercise.name,
            "title": f"{self.exercise.number} {self.exercise.title}",
            "track": self.exercise.track,
            "verdict": self.standing.verdict,
            "points": self.standing.earned,
            "out_of": self.exercise.points,
            "hints": self.standing.hints,
            "hint_cost": self.standing.hint_cost,
            "given_up": self.standing.given_up,
            "has_an_answer": self.is_there,
            "is_what_was_run": self.is_what_was_run,
        }


def _answer(exercise: Exercise, standing: Standing, submission: Submission, stub: str, names: dict[str, Any]) -> _Answer:
    written = {ast.unparse(statement) for statement in needed_statements(submission, exercise.function)}
    given = {ast.unparse(part) for part in parse(stub).body if getattr(part, "name", None) == exercise.function}
    is_there = bool(written) and not written & given
    return _Answer(exercise, standing, is_there, same_as_run(submission, exercise.function, names))


def _write(path: Path, content: bytes, answers: Sequence[_Answer]) -> Path:
    """Write the copy of the notebook and the receipt into a new folder, and return the folder."""
    now = datetime.now(UTC)
    receipt = {
        "notebook": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "time": now.isoformat(timespec="seconds"),
        "labkit": __version__,
        **_points(answers).to_dict(),
        "exercises": [answer.row() for answer in answers],
    }
    place = path.parent / "submitted"
    try:
        place.mkdir(exist_ok=True)
        folder = make_new(place / f"{path.stem}-{now:%Y%m%dT%H%M%SZ}", Path.mkdir)
        (folder / path.name).write_bytes(content)
        write_atomically(folder / "receipt.json", json.dumps(receipt, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise NotAvailable(f"the copy of the notebook cannot be written to {place} ({error})") from error
    return folder


def _points(answers: Sequence[_Answer]) -> Points:
    return points([(answer.exercise, answer.standing.earned, answer.exercise.points) for answer in answers])


def _words(path: Path, folder: Path, answers: Sequence[_Answer]) -> list[str]:
    reached = _points(answers)
    gone = [answer.exercise.function for answer in answers if answer.standing.points and not answer.is_there]
    unknown = [answer.exercise.function for answer in answers if answer.is_there and not answer.is_what_was_run]
    lines = [f"{path.name} is ready to hand in: your checks reached {reached.words}."]
    lines.append(f"On the {reached.core_words}.")
    fewer = [answer for answer in answers if answer.standing.points > answer.standing.earned]
    lines += [f"{answer.exercise.function}: {answer.standing.remark}" for answer in fewer]
    if gone:
        lines.append(f"Passed before, but the file has no answer now: {', '.join(gone)}. Is the notebook saved?")
    if unknown:
        lines.append(
            f"Not compared with the file, because this kernel has not run their code: {', '.join(unknown)}. "
            "Is the notebook saved?"
        )
    lines += [
        f"Hand in this copy: {folder / path.name}",
        f"Keep this receipt: {folder / 'receipt.json'} (hash of the copy, time, verdicts and points)",
        "If you change the notebook, save it and run submit() again.",
        "Nothing was sent, and no older copy was changed.",
    ]
    return lines
