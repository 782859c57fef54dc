"""The gradebook: a SQLite file with the history of runs, attempts, gradings and results. See `schema` and docs/gradebook.md."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from labkit.errors import InvalidRequest
from labkit.gradebook.collect import Note
from labkit.gradebook.names import visible
from labkit.gradebook.schema import TABLES, UNGRADED_TABLE, VERSION
from labkit.grading.verdict import UNGRADED, Verdict


@dataclass(frozen=True)
class Item:
    """The newest result of one exercise in an attempt."""

    exercise: str
    title: str
    verdict: str
    points: float
    out_of: float
    message: str
    details: str


@dataclass(frozen=True)
class Attempt:
    """An attempt of a learner at a lab. A learner's first submission has number 1. The keys of `items` are exercise names."""

    learner: str
    lab: str
    number: int
    file: str
    sha256: str
    submitted: datetime
    time_from: str
    items: dict[str, Item]


@dataclass(frozen=True)
class Submission:
    """What identifies an attempt: the learner, the lab, and the hash of the submission. The other fields describe it."""

    learner: str
    lab: str
    sha256: str
    file: str
    submitted: str
    time_from: str


@dataclass(frozen=True)
class Ungraded:
    """An exercise that could not be graded, in the submission with this hash, and the reason."""

    learner: str
    lab: str
    sha256: str
    file: str
    exercise: str
    reason: str


class Gradebook:
    """The gradebook in a file. Raises `InvalidRequest` if the file is not a gradebook of this version.

    Every method that writes uses one transaction, so after a crash the file contains each grading completely or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._base = sqlite3.connect(path, isolation_level=None, timeout=60)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise InvalidRequest(f"{path} is not a gradebook of labkit ({error}); give another folder with --out") from None
        except InvalidRequest:
            self._base.close()
            raise

    def _open(self) -> None:
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA foreign_keys = ON")
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        (tables,) = self._base.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version == 0 and tables == 0:
            self._base.executescript(f"BEGIN IMMEDIATE;\n{TABLES}\nPRAGMA user_version = {VERSION};\nCOMMIT;")
        elif version == 1:
            self._base.executescript(f"BEGIN IMMEDIATE;\n{UNGRADED_TABLE}\nPRAGMA user_version = {VERSION};\nCOMMIT;")
        elif version != VERSION:
            raise InvalidRequest(
                f"{self.path} has the schema version {version}, but this labkit reads version {VERSION}; "
                "give another folder with --out"
            )

    def __enter__(self) -> Gradebook:
        return self

    def __exit__(self, *error: object) -> None:
        self._base.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield self._base
            self._base.execute("COMMIT")
        except BaseException:
            self._base.execute("ROLLBACK")
            raise

    def begin_run(self, *, labkit: str, checks: str, machine: str, jobs: int, policy: str) -> int:
        """Record that a run starts, and return its number."""
        with self._transaction() as base:
            row = base.execute(
                "INSERT INTO run (started, labkit, checks, machine, jobs, policy) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                (_now(), labkit, checks, machine, jobs, policy),
            ).fetchone()
        return int(row[0])

    def end_run(self, run: int) -> None:
        """Record that a run has finished."""
        with self._transaction() as base:
            base.execute("UPDATE run SET finished = ? WHERE id = ?", (_now(), run))

    def add_learners(self, run: int, learners: Iterable[str], notes: Iterable[Note]) -> None:
        """Record the learners of a run, and the notes on their files."""
        with self._transaction() as base:
            base.executemany("INSERT OR IGNORE INTO learner (name) VALUES (?)", [(name,) for name in learners])
            base.executemany(
                "INSERT INTO note (run, learner, file, text) VALUES (?, (SELECT id FROM learner WHERE name = ?), ?, ?)",
                [(run, note.learner or None, visible(note.file), visible(note.text)) for note in notes],
            )

    def graded(self, submission: Submission, checks: str) -> set[str]:
        """The names of this submission's exercises that have a result from this version of the checks."""
        rows = self._base.execute(
            "SELECT exercise FROM result JOIN grading ON grading.id = result.grading"
            " JOIN attempt ON attempt.id = grading.attempt JOIN learner ON learner.id = attempt.learner"
            " WHERE (learner.name, attempt.lab, attempt.sha256, grading.checks) = (?, ?, ?, ?)",
            (submission.learner, submission.lab, submission.sha256, checks),
        )
        return {name for (name,) in rows}

    def ungraded(self) -> list[Ungraded]:
        """The exercises that could not be graded, and for which the learner has no result from the same or a later run."""
        rows = self._base.execute(
            "SELECT name, lab, sha256, file, exercise, reason FROM ungraded JOIN learner ON learner.id = ungraded.learner"
            " WHERE NOT EXISTS (SELECT 1 FROM result JOIN grading ON grading.id = result.grading"
            " JOIN attempt ON attempt.id = grading.attempt WHERE attempt.learner = ungraded.learner"
            " AND result.exercise = ungraded.exercise AND grading.run >= ungraded.run) ORDER BY ungraded.id"
        )
        newest = {(one.learner, one.exercise): one for one in (Ungraded(*row) for row in rows)}
        return list(newest.values())

    def add_grading(
        self, run: int, submission: Submission, checks: str, verdicts: Sequence[Verdict], *, is_regrade: bool = False
    ) -> None:
        """Record the verdicts on a submission, in one transaction.

        A new submission becomes the learner's next attempt, unless none of its exercises could be graded. The verdict "could
        not be graded" is recorded in its own table, so it replaces no earlier result.
        """
        results = [verdict for verdict in verdicts if verdict.verdict != UNGRADED]
        about = (submission.learner, submission.lab, submission.sha256, submission.file)
        with self._transaction() as base:
            if results:
                attempt = _attempt_id(base, submission)
                (grading,) = base.execute(
                    "INSERT INTO grading (attempt, run, checks, is_regrade, finished) VALUES (?, ?, ?, ?, ?) RETURNING id",
                    (attempt, run, checks, int(is_regrade), _now()),
                ).fetchone()
                base.executemany(
                    "INSERT INTO result (grading, exercise, title, verdict, points, out_of, message, details)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [(grading, *_row(verdict)) for verdict in results],
                )
            base.executemany(
                "INSERT INTO ungraded (run, learner, lab, sha256, file, exercise, reason)"
                " VALUES (?, (SELECT id FROM learner WHERE name = ?), ?, ?, ?, ?, ?)",
                [
                    (run, *about, verdict.exercise, visible(verdict.message))
                    for verdict in verdicts
                    if verdict.verdict == UNGRADED
                ],
            )

    def learners(self) -> list[str]:
        """The names of all learners, sorted."""
        return [name for (name,) in self._base.execute("SELECT name FROM learner ORDER BY name")]

    def notes(self, run: int) -> list[Note]:
        """The notes that a run recorded."""
        rows = self._base.execute(
            "SELECT coalesce(learner.name, ''), file, text FROM note LEFT JOIN learner ON learner.id = note.learner"
            " WHERE run = ? ORDER BY note.id",
            (run,),
        )
        return [Note(*row) for row in rows]

    def attempts(self) -> list[Attempt]:
        """All attempts with their newest results, sorted by learner, lab and number."""
        items: dict[int, dict[str, Item]] = {}
        columns = "attempt, exercise, title, verdict, points, out_of, message, details"
        for attempt, *row in self._base.execute(f"SELECT {columns} FROM current_result"):
            items.setdefault(attempt, {})[row[0]] = Item(*row)
        rows = self._base.execute(
            "SELECT attempt.id, name, lab, number, file, sha256, submitted, time_from FROM attempt"
            " JOIN learner ON learner.id = attempt.learner ORDER BY name, lab, number"
        )
        return [
            Attempt(name, lab, number, file, sha256, datetime.fromisoformat(submitted), time_from, items.get(key, {}))
            for key, name, lab, number, file, sha256, submitted, time_from in rows
        ]


def _attempt_id(base: sqlite3.Connection, submission: Submission) -> int:
    (learner,) = base.execute("SELECT id FROM learner WHERE name = ?", (submission.learner,)).fetchone()
    found = base.execute(
        "SELECT id FROM attempt WHERE (learner, lab, sha256) = (?, ?, ?)", (learner, submission.lab, submission.sha256)
    ).fetchone()
    if found is None:
        found = base.execute(
            "INSERT INTO attempt (learner, lab, number, file, sha256, submitted, time_from)"
            " VALUES (?1, ?2, (SELECT count(*) + 1 FROM attempt WHERE (learner, lab) = (?1, ?2)), ?3, ?4, ?5, ?6) RETURNING id",
            (learner, submission.lab, submission.file, submission.sha256, submission.submitted, submission.time_from),
        ).fetchone()
    return int(found[0])


def _row(verdict: Verdict) -> tuple[str, str, str, float, float, str, str]:
    words = verdict.cause or verdict.verdict
    texts = visible(verdict.message), visible(verdict.details)
    return verdict.exercise, verdict.title, words, verdict.points, verdict.out_of, *texts


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
