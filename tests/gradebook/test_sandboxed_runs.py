"""A run needs a sandbox. A second run with the same secret does not grade anything again.

The notebooks here name the exercises only in text cells, so their items are not attempted, and no function has to run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.errors import NotAvailable
from labkit.gradebook.class_run import Summary, grade_class
from labkit.grading.sandbox import need_sandbox
from tests.gradebook.classes import grade, notebook, write
from tests.gradebook.test_class_run import Watcher


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the submissions of two learners."""
    for name in ("ada", "bert"):
        write(tmp_path / "submissions" / name / "00.ipynb", notebook(text_cells=("def kv_cache_bytes():",)))
    return tmp_path


def test_without_bubblewrap_the_command_refuses(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    _, errors = grade(place / "submissions", "--out", place / "grades", status=1)
    line = errors.splitlines()[-1]  # the lines before it show the progress
    assert "no bubblewrap" in line
    assert "--unsafe" in line
    assert not (place / "grades").exists()
    said, _ = grade(place / "submissions", "--out", place / "grades", "--unsafe")
    assert "2 submissions graded" in said


@pytest.mark.long
def test_the_secret_belongs_to_the_version_of_the_checks(place: Path) -> None:
    try:
        need_sandbox()
    except NotAvailable as error:
        pytest.skip(f"not measured here: {error}")

    def run(secret: str | None) -> Summary:
        return grade_class(place / "submissions", place / "grades", Watcher(), secret=secret)

    runs = [run(secret) for secret in ("one", "one", "two", None, "two")]
    assert [(summary.graded, summary.known) for summary in runs] == [(2, 0), (0, 2), (2, 0), (2, 0), (0, 2)]
