"""Grades a class of 300 as an instructor would, and compares every verdict with the expected verdict.

    python -m tests.benchmarks.class_of_300 [--learners N] [--save FILE]

The class has a learner for each of these: the solved notebook of each lab, the untouched student notebook of each lab, every
known mistake in labs 00 and 01, and every cheat of `tests.gradebook.cheats`. The other learners have solved or untouched
notebooks of lab 01. `labkit grade` grades the class with two jobs. Then it grades the class again with one job, is killed in
the middle, and is started again. The first and the second grading must give the same verdicts. The last line of the output is
one JSON object. The exit status is 1 if a verdict is not the expected verdict.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from labkit.exercises.answer import Answer
from labkit.exercises.registry import of_lab
from labkit.grading.find_answer import answer_to
from labkit.measure import Record
from tests.gradebook.cheats import CHEATS
from tests.gradebook.cheats.submissions import facts_of, submit
from tests.gradebook.classes import notebook, write

ROOT = Path(__file__).parents[2]
SECRET = "the secret of a class of 300"
MISTAKEN_LABS = ("00", "01")
SOLVED, STUB, MISTAKE, CHEAT = "solved", "student notebook", "known mistake", "cheat"


@dataclass(frozen=True)
class Due:
    """The facts that decide which verdict is due to a learner: the kind of submission and the lab.

    For a known mistake, they are also the name of its exercise and the message that the learner must get.
    """

    kind: str
    lab: str
    exercise: str = ""
    says: str = ""


@dataclass(frozen=True)
class Row:
    """A verdict in the gradebook. `finished` is the time at which the grading of its submission was finished."""

    learner: str
    exercise: str
    verdict: str
    points: float
    out_of: float
    message: str
    finished: str


def make_class(root: Path, learners: int, port: int) -> dict[str, Due]:
    """Write the submissions. Return the `Due` of each learner, by name."""
    due: dict[str, Due] = {}
    labs = {path.stem[:2]: path for path in sorted((ROOT / "labs").glob("*.ipynb"))}
    for lab, path in labs.items():
        due |= add_submission(root, f"stub-{lab}", path, Due(STUB, lab))
        due |= add_submission(root, f"solved-{lab}", ROOT / "solutions" / path.name, Due(SOLVED, lab))
    for lab in MISTAKEN_LABS:
        for answer in map(answer_to, of_lab(lab)):
            for number, mistake in enumerate(answer.mistakes):
                name = f"mistake-{answer.exercise.number}-{number}"
                write(root / "submissions" / name / f"{lab}.ipynb", notebook(*_cells(lab, answer, number)))
                due[name] = Due(MISTAKE, lab, answer.exercise.name, mistake.message)
    facts = facts_of(root, SECRET, "solved-00", port)
    for name, cheat in CHEATS.items():
        submit(root, f"cheat-{name}", cheat, facts)
        due[f"cheat-{name}"] = Due(CHEAT, "00")
    for number in range(learners - len(due)):
        is_solved = number % 3 < 2
        source = (ROOT / "solutions" / labs["01"].name) if is_solved else labs["01"]
        due |= add_submission(root, f"more-{number:03}", source, Due(SOLVED if is_solved else STUB, "01"))
    return due


def add_submission(root: Path, name: str, notebook: Path, due: Due) -> dict[str, Due]:
    """Copy a notebook into a folder for a learner. Return the learner's `Due`, by name."""
    folder = root / "submissions" / name
    folder.mkdir(parents=True)
    shutil.copyfile(notebook, folder / notebook.name)
    return {name: due}


def _cells(lab: str, answer: Answer, number: int) -> list[str]:
    """Return the cells of a learner who makes the mistake `number` in an exercise.

    The learner's own code is the text of labkit's answers. Its functions are renamed, so that none of them has the name of a
    function that an exercise asks for.
    """
    asked = "|".join(exercise.function for one in MISTAKEN_LABS for exercise in of_lab(one))
    texts = []
    for module in (importlib.import_module(f"labkit.answers.lab{one}") for one in dict.fromkeys(("00", lab))):
        lines = [line for line in inspect.getsource(module).splitlines() if "labkit.answers" not in line]
        texts.append(re.sub(rf"(?<![.\w])({asked})\b", r"own_\1", "\n".join(lines)))
    index = of_lab(lab).index(answer.exercise)
    return [*texts, f"{answer.exercise.function} = ANSWERS[{index}].mistakes[{number}].implementation"]


def start_grading(root: Path, out: str, jobs: int) -> subprocess.Popen[bytes]:
    """Start `labkit grade` on the class."""
    command = [
        sys.executable,
        "-m",
        "labkit",
        "grade",
        str(root / "submissions"),
        "--out",
        str(root / out),
        "--jobs",
        str(jobs),
    ]
    environment = os.environ | {"LABKIT_GRADE_SEED": SECRET, "LABKIT_HOME": str(root / "home"), "TMPDIR": str(root / "temp")}
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)


def grade(root: Path, out: str, jobs: int) -> float:
    """Grade the class to the end. Return the seconds that this took."""
    began = time.monotonic()
    process = start_grading(root, out, jobs)
    if process.wait() != 0:
        raise SystemExit(f"labkit grade ended with status {process.returncode}")
    return time.monotonic() - began


def kill_at(root: Path, out: str, jobs: int, submissions: int) -> int:
    """Start grading, and kill its processes when `submissions` submissions are in the gradebook.

    Return the number of submissions that are in the gradebook after that.
    """
    process = start_grading(root, out, jobs)
    while process.poll() is None and graded(root / out) < submissions:
        time.sleep(1.0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return graded(root / out)


def _base(out: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{out / 'gradebook.sqlite'}?mode=ro", uri=True)


def graded(out: Path) -> int:
    """Return the number of gradings in a gradebook; 0 if the gradebook does not exist yet."""
    try:
        with closing(_base(out)) as base:
            return int(base.execute("SELECT count(*) FROM grading").fetchone()[0])
    except sqlite3.Error:
        return 0


def rows_of(out: Path) -> list[Row]:
    """All verdicts in a gradebook."""
    question = (
        "SELECT name, exercise, verdict, points, out_of, message, finished FROM current_result"
        " JOIN attempt ON attempt.id = current_result.attempt JOIN learner ON learner.id = learner"
        " JOIN grading ON grading.id = newest ORDER BY name, exercise"
    )
    with closing(_base(out)) as base:
        return [Row(*row) for row in base.execute(question)]


def wrong(row: Row, due: Due) -> str:
    """Return a text that says what is wrong with a verdict; "" if it is the expected verdict."""
    if row.verdict == "not measured here":
        return ""
    said = f"{row.learner} {row.exercise}: {row.verdict}, {row.points:g} points: {row.message}"
    if due.kind == SOLVED:
        return "" if row.points == row.out_of else said
    if row.points:
        return said
    if due.kind == MISTAKE and row.exercise == due.exercise:
        return "" if row.message == due.says else f"{said} (due: {due.says})"
    return said if due.kind == STUB and row.verdict != "not attempted" else ""


def table(rows: list[Row], due: dict[str, Due], seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Return a line for each kind of submission and lab."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[due[row.learner].kind, due[row.learner].lab].append(row)
    lines = []
    for (kind, lab), members in sorted(groups.items()):
        learners = sorted({row.learner for row in members})
        lines.append(
            {
                "kind": kind,
                "lab": lab,
                "submissions": len(learners),
                "items": len(members),
                "points": sum(row.points for row in members),
                "out_of": sum(row.out_of for row in members),
                "verdicts": dict(Counter(row.verdict for row in members)),
                "as_due": sum(not wrong(row, due[row.learner]) for row in members),
                "median_seconds": round(statistics.median(seconds.get(learner, 0.0) for learner in learners), 1),
            }
        )
    return lines


def seconds_each(rows: list[Row]) -> dict[str, float]:
    """Return the seconds that each submission took, if the submissions were graded one after the other.

    These are the seconds between the end of the previous submission and the end of this submission.
    """
    ends = sorted({(datetime.fromisoformat(row.finished).timestamp(), row.learner) for row in rows})
    return {learner: end - before for (before, _), (end, learner) in pairwise(ends)}


def in_words(lines: list[dict[str, Any]]) -> str:
    """Return the lines of `table` as a text."""
    head = (
        f"{'submission':<18}{'lab':>4}{'number':>8}{'items':>7}{'as due':>8}{'points':>8}{'out of':>8}{'s each':>8}  verdicts"
    )
    rows = [head]
    for line in lines:
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(line["verdicts"].items()))
        numbers = f"{line['submissions']:>8}{line['items']:>8}{line['as_due']:>8}{line['points']:>8g}{line['out_of']:>8g}"
        rows.append(f"{line['kind']:<18}{line['lab']:>4}{numbers}{line['median_seconds']:>8.1f}  {verdicts}")
    return "\n".join(rows)


def main() -> None:
    """Make the class, grade it twice, and print the table."""
    parser = argparse.ArgumentParser(description="Grade a class of 300.")
    parser.add_argument("--learners", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", 0)) as server:
        root = Path(place)
        (root / "temp").mkdir()
        due = make_class(root, options.learners, server.getsockname()[1])
        seconds = grade(root, "grades", options.jobs)
        print(f"{len(due)} submissions graded in {seconds / 60:.1f} minutes with {options.jobs} jobs", flush=True)
        rows = rows_of(root / "grades")
        problems = [problem for row in rows if (problem := wrong(row, due[row.learner]))]
        print(in_words(table(rows, due, {})), *problems, sep="\n", flush=True)
        at_kill = kill_at(root, "again", 1, len(due) // 2)
        rest = grade(root, "again", 1)
        again = rows_of(root / "again")
    first, second = ({(r.learner, r.exercise): (r.verdict, r.points, r.message) for r in each} for each in (rows, again))
    keys = sorted(first.keys() | second.keys())
    differ = [f"{key}: {first.get(key)} / {second.get(key)}" for key in keys if first.get(key) != second.get(key)]
    lines = table(again, due, seconds_each(again))
    print(
        f"killed when {at_kill} were graded; the rest took {rest / 60:.1f} minutes with one job; {len(differ)} verdicts differ"
    )
    print(in_words(lines), *differ, sep="\n")
    record = Record(
        "class of 300",
        {"submissions": len(due), "jobs": options.jobs},
        lines,
        extra={
            "minutes": round(seconds / 60, 2),
            "not_as_due": problems,
            "graded_before_the_kill": at_kill,
            "differ_with_one_job_and_a_kill": differ,
        },
    )
    if options.save:
        record.save(options.save)
    print(json.dumps(record.to_dict()))
    raise SystemExit(bool(problems or differ))


if __name__ == "__main__":
    main()
