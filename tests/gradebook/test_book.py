"""The gradebook keeps everything, refuses what is not consistent, and survives a crash in a transaction."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import InvalidRequest
from labkit.gradebook.book import Gradebook, Submission
from labkit.gradebook.collect import Note
from labkit.gradebook.schema import TABLES, UNGRADED_TABLE, VERSION
from labkit.grading.judge import make, ungraded
from labkit.grading.verdict import ERROR, FAILED, PASSED
from tests.gradebook.classes import EXERCISE

ONE = Submission("ada", "00", "a" * 64, "00.ipynb", "2026-10-05T21:59:00+00:00", "file time")
ROOT = Path(__file__).parents[2]


def begin(book: Gradebook) -> int:
    run = book.begin_run(labkit="1", checks="v1", machine="here", jobs=1, policy="")
    book.add_learners(run, ["ada"], [Note("ada", "00.ipynb", "odd \ud800"), Note("", "", "all")])
    return run


def test_history_is_kept_and_the_newest_result_counts(tmp_path: Path) -> None:
    with Gradebook(tmp_path / "book") as book:
        run = begin(book)
        book.add_grading(run, ONE, "v1", [make(EXERCISE, FAILED, "no \ud800", cause=ERROR)])
        assert book.graded(ONE, "v1") == {EXERCISE.name}
        assert not book.graded(ONE, "v2")
        book.add_grading(run, ONE, "v1", [make(EXERCISE, PASSED, "yes")], is_regrade=True)
        book.add_grading(run, replace(ONE, sha256="b"), "v1", [make(EXERCISE, FAILED, "no")])
        book.end_run(run)
    with Gradebook(tmp_path / "book") as book:
        first, second = book.attempts()
        assert [first.number, second.number] == [1, 2]
        assert (first.items[EXERCISE.name].verdict, first.items[EXERCISE.name].points) == (PASSED, 10)
        assert second.items[EXERCISE.name].verdict == FAILED
        assert book.notes(run) == [Note("ada", "00.ipynb", "odd \\ud800"), Note("", "", "all")]
    with closing(sqlite3.connect(tmp_path / "book")) as base:
        assert base.execute("SELECT verdict FROM result ORDER BY grading").fetchall() == [(ERROR,), (PASSED,), (FAILED,)]
        assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_could_not_be_graded_is_no_attempt_and_is_open_until_there_is_a_result(tmp_path: Path) -> None:
    failed = ungraded(EXERCISE, "no memory")
    with Gradebook(tmp_path / "book") as book:
        run = begin(book)
        book.add_grading(run, ONE, "v1", [failed])
        assert (book.attempts(), book.graded(ONE, "v1")) == ([], set())
        (one,) = book.ungraded()
        assert (one.learner, one.exercise, one.reason) == ("ada", EXERCISE.name, "The machine failed: no memory.")
        book.add_grading(run, ONE, "v1", [make(EXERCISE, PASSED, "yes")])
        assert book.ungraded() == []
        later = begin(book)
        book.add_grading(later, ONE, "v1", [failed], is_regrade=True)
        assert [one.sha256 for one in book.ungraded()] == [ONE.sha256]
        (attempt,) = book.attempts()
        assert (attempt.number, attempt.items[EXERCISE.name].verdict) == (1, PASSED)


def test_a_gradebook_of_version_1_is_continued(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "book")) as base:
        base.executescript(TABLES.replace(UNGRADED_TABLE, "") + "PRAGMA user_version = 1;")
    with Gradebook(tmp_path / "book") as book:
        book.add_grading(begin(book), ONE, "v1", [ungraded(EXERCISE, "no memory")])
    with Gradebook(tmp_path / "book") as book:
        assert len(book.ungraded()) == 1


def test_a_submission_is_in_the_book_completely_or_not_at_all(tmp_path: Path) -> None:
    right, twice = make(EXERCISE, PASSED, "yes"), make(EXERCISE, PASSED, "again")
    with Gradebook(tmp_path / "book") as book:
        run = begin(book)
        with pytest.raises(sqlite3.IntegrityError):
            book.add_grading(run, ONE, "v1", [right, twice])
        assert book.attempts() == []
        book.add_grading(run, ONE, "v1", [right])
        with pytest.raises(sqlite3.IntegrityError):
            book.add_grading(run, ONE, "v1", [right])
        assert len(book.attempts()) == 1


@pytest.mark.parametrize("wrong", [{"points": 11}, {"points": -1}, {"verdict": "great"}])
def test_wrong_rows_are_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    with Gradebook(tmp_path / "book") as book:
        run = begin(book)
        with pytest.raises(sqlite3.IntegrityError):
            book.add_grading(run, ONE, "v1", [replace(make(EXERCISE, PASSED, "yes"), **wrong)])  # type: ignore[arg-type]


def test_other_files_are_refused_and_not_changed(tmp_path: Path) -> None:
    text, other, newer = tmp_path / "text", tmp_path / "other", tmp_path / "newer"
    text.write_text("no database " * 100)
    with closing(sqlite3.connect(other)) as base:
        base.execute("CREATE TABLE mine (x)")
    with closing(sqlite3.connect(newer)) as base:
        base.execute(f"PRAGMA user_version = {VERSION + 1}")
    for path, said in ((text, "is not a gradebook"), (other, "schema version 0"), (newer, f"schema version {VERSION + 1}")):
        with pytest.raises(InvalidRequest) as error:
            Gradebook(path)
        assert said in str(error.value)
    assert text.read_text().startswith("no database")


def test_the_docs_describe_every_column(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gradebook.md").read_text("utf-8")
    with Gradebook(tmp_path / "book"), closing(sqlite3.connect(tmp_path / "book")) as base:
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")]
        columns = {(table, row[1]) for table in tables for row in base.execute(f"PRAGMA table_info({table})")}
    assert f"version {VERSION}" in page
    assert not [pair for pair in columns if f"`{pair[0]}`" not in page or f"`{pair[1]}`" not in page]
