"""Tests the whole course on this machine: `make course`.

    python -m tests.benchmarks.whole_course [--lab 00 ...] [--jobs 2] [--save FILE]

Every solved lab runs from top to bottom, with a home directory of its own. Then `labkit grade` grades the notebooks that these
runs have made and the unsolved notebooks that learners get, in the sandbox and with secret inputs. The solved notebooks must
have full marks, and the unsolved ones zero points. The program prints a table of verdicts, points and times, and the speed
ladders. The last line is one JSON object. The exit status is 1 if any result is not as expected. Exercises that this machine
cannot run are *not measured here*.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from labkit.errors import LabkitError
from labkit.exercises.titles import LAB_TITLES
from labkit.grading.lab_notebooks import solved_notebook
from labkit.grading.release import Lab, choose_labs, execute
from labkit.grading.verdict import NOT_MEASURED, PASSED
from labkit.home import fresh_home
from labkit.measure import Ladder, Record
from labkit.measure.disturbed import COMMAND_AGAIN
from tests.benchmarks.class_of_300 import SOLVED, STUB, Due, Row, add_submission, grade, rows_of, wrong

ROOT = Path(__file__).parents[2]
_VERDICT = re.compile(r"data-verdict='([^']+)'")


@dataclass
class LabProof:
    """What was found for one lab.

    verdicts: how often the solved notebook showed each verdict when it ran. points, out_of: the points that `labkit grade` gave
    to the solved notebook, and the points that it could give. stub_points: the points that `labkit grade` gave to the unsolved
    notebook. problems: every result that is not as expected.
    """

    lab: str
    title: str
    seconds: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)
    points: float = 0.0
    out_of: float = 0.0
    not_measured: int = 0
    stub_points: float = 0.0
    problems: list[str] = field(default_factory=list)


def run_solved(lab: Lab, folder: Path) -> tuple[LabProof, Path | None]:
    """Run a solved lab and write its notebook to a folder. Return what was found, and the notebook's path, or None if a cell
    failed.
    """
    proof = LabProof(lab.number, LAB_TITLES[lab.number])
    began = time.monotonic()
    try:
        notebook = execute(solved_notebook(lab.source.read_text("utf-8")), lab.source.parent, lab.source.name)
    except LabkitError as error:
        proof.problems.append(str(error))
        return proof, None
    finally:
        proof.seconds = round(time.monotonic() - began, 1)
    proof.verdicts = dict(verdicts_in(notebook))
    proof.problems += [f"{verdict}: {count} times" for verdict, count in proof.verdicts.items() if verdict not in FINE]
    path = folder / lab.solved.name
    path.write_text(nbformat.writes(notebook), "utf-8")  # type: ignore[no-untyped-call]
    return proof, path


FINE = (PASSED, NOT_MEASURED)


def verdicts_in(notebook: Any) -> Counter[str]:
    """How often a notebook shows each verdict."""
    pages = (output.get("data", {}).get("text/html", "") for cell in notebook.cells for output in cell.get("outputs", []))
    return Counter(verdict for page in pages for verdict in _VERDICT.findall("".join(page)))


def add_grades(proof: LabProof, rows: list[Row], due: dict[str, Due]) -> None:
    """Add what `labkit grade` found for the lab."""
    mine = [row for row in rows if due[row.learner].lab == proof.lab]
    solved = [row for row in mine if due[row.learner].kind == SOLVED]
    counted = [row for row in solved if row.verdict != NOT_MEASURED]
    proof.points, proof.out_of = sum(row.points for row in counted), sum(row.out_of for row in counted)
    proof.not_measured = len(solved) - len(counted)
    proof.stub_points = sum(row.points for row in mine if due[row.learner].kind == STUB)
    proof.problems += [problem for row in mine if (problem := wrong(row, due[row.learner]))]
    for kind in (SOLVED, STUB):
        if not any(due[row.learner].kind == kind for row in mine):
            proof.problems.append(f"the gradebook has no {kind}")


def in_words(proofs: list[LabProof]) -> str:
    """The table as text."""
    lines = [f"{'lab':<42}{'seconds':>8}{'passed':>8}{'not measured':>14}{'points':>12}{'untouched':>11}  verdict"]
    for proof in proofs:
        name, points = f"{proof.lab} {proof.title}", f"{proof.points:g} of {proof.out_of:g}"
        passed, verdict = proof.verdicts.get(PASSED, 0), "✗ not as due" if proof.problems else "✓ as due"
        lines.append(
            f"{name:<42}{proof.seconds:>8.0f}{passed:>8}{proof.not_measured:>14}{points:>12}{proof.stub_points:>11g}  {verdict}"
        )
    return "\n".join(lines)


def prove(labs: list[Lab], jobs: int, place: Path) -> tuple[list[LabProof], str]:
    """Run and grade the labs. Return what was found, and the speed ladders as text."""
    proofs, due = [], {}
    with fresh_home():
        for number, lab in enumerate(labs, 1):
            print(f"[{number}/{len(labs) + 1}] the solved lab {lab.source.stem} ...", flush=True)
            proof, path = run_solved(lab, place)
            proofs.append(proof)
            due |= add_submission(place, f"stub-{lab.number}", lab.student, Due(STUB, lab.number))
            if path:
                due |= add_submission(place, f"solved-{lab.number}", path, Due(SOLVED, lab.number))
        ladders = Ladder().text(COMMAND_AGAIN)
    print(f"[{len(labs) + 1}/{len(labs) + 1}] grading {len(due)} notebooks ...", flush=True)
    grade(place, "grades", jobs)
    rows = rows_of(place / "grades")
    for proof in proofs:
        add_grades(proof, rows, due)
    return proofs, ladders


def main() -> None:
    """Test the course, and print the tables."""
    parser = argparse.ArgumentParser(description="Prove the whole course on this machine.")
    parser.add_argument("--lab", action="append", default=[], help="only this lab: 01 for example; may be given several times")
    parser.add_argument("--jobs", type=int, default=2, help="how many notebooks are graded at a time")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "temp").mkdir()
        proofs, ladders = prove(choose_labs(ROOT, options.lab), options.jobs, place)
    minutes = (time.monotonic() - began) / 60
    problems = [f"lab {proof.lab}: {problem}" for proof in proofs for problem in proof.problems]
    print("", ladders, "", in_words(proofs), *problems, f"{minutes:.1f} minutes", sep="\n")
    rows = [asdict(proof) for proof in proofs]
    record = Record("whole course", {"jobs": options.jobs}, rows, extra={"minutes": round(minutes, 2)})
    if options.save:
        record.save(options.save)
    print(json.dumps(record.to_dict()))
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
