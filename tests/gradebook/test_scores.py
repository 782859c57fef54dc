"""The policy for late and repeated work, and the scores that follow from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from labkit.errors import InvalidRequest
from labkit.exercises.registry import of_lab
from labkit.gradebook.book import Attempt, Item
from labkit.gradebook.policy import Policy, read_policy
from labkit.gradebook.scores import VERDICTS, lab_score, verdict_of
from tests.gradebook.classes import write

DEADLINE = datetime(2026, 10, 5, 21, 59, tzinfo=UTC)
TEXT = 'most_attempts = 2\npercent_per_day_late = 12.5\n[deadline]\n"00" = 2026-10-05T23:59:00+02:00\n'


def attempt(number: int, points: float, late: timedelta = timedelta(), extra: float = 0) -> Attempt:
    """An attempt at lab 00 that is `late` after the deadline, with `points` points on the core path and `extra` points in an
    extra exercise.
    """
    core = {"lab00.weight_gib": Item("lab00.weight_gib", "0.2", "passed", points, 10, "", "")}
    verdict = "passed" if extra else "failed"
    items = core | {"lab00.parameter_count": Item("lab00.parameter_count", "0.1", verdict, extra, 10, "", "")}
    return Attempt("ada", "00", number, "00.ipynb", f"{number}", DEADLINE + late, "file time", items)


def test_a_policy_is_read(tmp_path: Path) -> None:
    policy = read_policy(write(tmp_path / "policy.toml", TEXT))
    assert policy == Policy({"00": DEADLINE}, 12.5, 2, TEXT)
    assert read_policy(write(tmp_path / "policy.toml", "")) == Policy()
    assert read_policy(write(tmp_path / "policy.toml", 'track = "core"')).track == "core"


WRONG = {
    "no TOML": ("=", "cannot be read"),
    "unknown name": ("late = 3", "the name 'late'; the names are deadline"),
    "unknown lab": ('[deadline]\n"1" = 2026-10-05T23:59:00Z', "a deadline for lab '1'; the labs are 00, 01"),
    "no offset": ('[deadline]\n"00" = 2026-10-05T23:59:00', "a date and time with an offset"),
    "no time": ('[deadline]\n"00" = 2026-10-05', "a date and time with an offset"),
    "no table": ("deadline = 3", "a table [deadline]"),
    "too much": ("percent_per_day_late = 101", "is 101; give a number from 0 to 100"),
    "not a number": ("percent_per_day_late = nan", "is nan; give a number"),
    "negative": ("most_attempts = -1", "is -1; give a whole number from 0"),
    "half": ("most_attempts = 1.5", "is 1.5; give a whole number"),
    "no track": ('track = "Core"', """track in the policy PATH is 'Core'; give "core" or "full\""""),
    "a number as track": ("track = 1", 'is 1; give "core" or "full"'),
    "true": ("most_attempts = true", "is True; give a whole number"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_policy_is_refused_in_words(kind: str, tmp_path: Path) -> None:
    text, said = WRONG[kind]
    with pytest.raises(InvalidRequest) as error:
        read_policy(write(tmp_path / "policy.toml", text))
    assert said in str(error.value).replace(str(tmp_path / "policy.toml"), "PATH")


@pytest.mark.parametrize(
    ("late", "days", "percent"),
    [
        (timedelta(days=-3), 0, 100),
        (timedelta(), 0, 100),
        (timedelta(seconds=1), 1, 87.5),
        (timedelta(days=1), 1, 87.5),
        (timedelta(days=1, seconds=1), 2, 75),
        (timedelta(days=90), 90, 0),
    ],
)
def test_a_begun_day_is_a_day(late: timedelta, days: int, percent: float) -> None:
    policy = Policy({"00": DEADLINE}, 12.5)
    assert policy.days_late("00", DEADLINE + late) == days
    assert policy.percent("00", DEADLINE + late) == percent
    assert policy.days_late("01", DEADLINE + late) == 0


def test_the_best_allowed_attempt_counts() -> None:
    late = timedelta(days=2)
    attempts = [attempt(1, 8), attempt(2, 10, late), attempt(3, 10)]
    for policy, number, score in [
        (Policy({"00": DEADLINE}, 5, 2), 2, 9.0),
        (Policy({"00": DEADLINE}, 25, 2), 1, 8.0),
        (Policy({"00": DEADLINE}, 25), 3, 10.0),
    ]:
        found = lab_score("ada", "00", attempts, policy)
        assert found.attempt is not None
        assert (found.attempt.number, found.score) == (number, score)
        assert f"Attempt {number} of 3 counts." in found.remark
        assert ("2 days late: 90 %" in found.remark) == (number == 2)
        assert ("Only the first 2 attempts may count." in found.remark) == (policy.most_attempts == 2)
    again = lab_score("ada", "00", [attempt(1, 8), attempt(2, 8)], Policy())
    assert again.attempt is not None
    assert again.attempt.number == 1


def test_without_an_attempt_the_score_is_zero() -> None:
    found = lab_score("ada", "00", [], Policy())
    assert (found.attempt, found.score, found.verdict, found.most) == (None, 0, "not attempted", 65)
    assert {item.verdict for item in found.items} == {"not attempted"}


def test_on_the_core_track_extras_do_not_count() -> None:
    late = timedelta(days=1)
    attempts = [attempt(1, 8, extra=10), attempt(2, 10, late)]
    core = lab_score("ada", "00", attempts, Policy({"00": DEADLINE}, 10, track="core"))
    full = lab_score("ada", "00", attempts, Policy({"00": DEADLINE}, 10))
    assert core.attempt is not None
    assert full.attempt is not None
    assert (core.attempt.number, core.score, core.counted, core.most) == (2, 9, 10, 55)  # the attempt with more core points
    assert (full.attempt.number, full.score, full.counted, full.most) == (1, 18, 18, 65)
    (first,) = [lab_score("ada", "00", attempts[:1], Policy(track="core"))]
    assert first.points.to_dict() == {"points": 18, "out_of": 65, "core_points": 8, "core_out_of": 55}
    assert "Only the core path counts: 10 points of extras do not." in first.remark
    assert "core path" not in full.remark


def test_the_verdict_on_a_lab_is_that_on_the_exercises_that_count() -> None:
    items = {e.name: Item(e.name, e.number, "passed" if e.core else "failed", 0, 0, "", "") for e in of_lab("00")}
    done = Attempt("ada", "00", 1, "00.ipynb", "1", DEADLINE, "file time", items)
    assert lab_score("ada", "00", [done], Policy(track="core")).verdict == "passed"
    assert lab_score("ada", "00", [done], Policy()).verdict == "partial"


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["passed", "passed"], "passed"),
        (["passed", "not measured here"], "partial"),
        (["partial", "failed"], "partial"),
        (["not attempted", "failed", "error"], "failed"),
        (["not attempted", "timed out"], "timed out"),
        (["not attempted", "not measured here"], "not measured here"),
        (["not attempted"], "not attempted"),
    ],
)
def test_the_verdict_on_a_lab(verdicts: list[str], whole: str) -> None:
    assert verdict_of(verdicts) == whole
    assert whole in VERDICTS
