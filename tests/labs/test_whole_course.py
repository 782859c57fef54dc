"""`make course`: the results that it expects, and a run of a single lab."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.exercises.registry import of_lab
from tests.benchmarks.class_of_300 import SOLVED, STUB, Due, Row
from tests.benchmarks.whole_course import LabProof, add_grades, in_words

DUE = {"solved-00": Due(SOLVED, "00"), "stub-00": Due(STUB, "00")}


def row(learner: str, verdict: str, points: float, exercise: str = "lab00.weight_gib") -> Row:
    return Row(learner, exercise, verdict, points, 10.0, "a message", "2026-01-01T00:00:00+00:00")


def proof_of(*rows: Row) -> LabProof:
    proof = LabProof("00", "Class environment")
    add_grades(proof, list(rows), DUE)
    return proof


def test_full_marks_and_zero_are_as_due() -> None:
    left_out = row("solved-00", "not measured here", 0.0, "lab00.roofline_time")
    proof = proof_of(row("solved-00", "passed", 10.0), left_out, row("stub-00", "not attempted", 0.0))
    assert (proof.points, proof.out_of, proof.not_measured, proof.stub_points, proof.problems) == (10.0, 10.0, 1, 0.0, [])
    assert "✓ as due" in in_words([proof])


@pytest.mark.parametrize(
    "rows",
    [
        (row("solved-00", "failed", 0.0), row("stub-00", "not attempted", 0.0)),
        (row("solved-00", "passed", 10.0), row("stub-00", "passed", 10.0)),
        (row("solved-00", "passed", 10.0),),
        (row("stub-00", "not attempted", 0.0),),
    ],
)
def test_everything_else_is_a_problem(rows: tuple[Row, ...]) -> None:
    proof = proof_of(*rows)
    assert proof.problems
    assert "✗ not as due" in in_words([proof])


@pytest.mark.long
def test_lab_00_is_proven(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.whole_course", "--lab", "00", "--save", str(tmp_path / "record.json")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-20_000:]
    (found,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    points = sum(exercise.points for exercise in of_lab("00"))
    assert (found["points"], found["out_of"], found["stub_points"]) == (points, points, 0)
    assert found["verdicts"] == {"passed": len(of_lab("00"))}
    assert json.loads((tmp_path / "record.json").read_text("utf-8"))["kind"] == "whole course"
