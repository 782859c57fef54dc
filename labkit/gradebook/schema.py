"""The tables of the gradebook.

The page `docs/gradebook.md` describes the tables. A file of version 1 has no table `ungraded`; it gets the table when it is
opened. Rows are added and never deleted. They never change, except that `run.finished` is filled in when a run ends. A learner
has only one row, even after several runs.
"""

from __future__ import annotations

VERSION = 2
"""The version of these tables. A gradebook file stores it in SQLite's `PRAGMA user_version`."""

VERDICTS = "'passed', 'partial', 'failed', 'error', 'timed out', 'inconclusive', 'not attempted', 'not measured here'"

UNGRADED_TABLE = """
CREATE TABLE ungraded (                     -- an exercise that a run could not grade, because the machine failed
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES run,
    learner INTEGER NOT NULL REFERENCES learner,
    lab TEXT NOT NULL,
    sha256 TEXT NOT NULL,                   -- of the submission, which is an attempt only if other exercises have a result
    file TEXT NOT NULL,
    exercise TEXT NOT NULL,
    reason TEXT NOT NULL
);
"""

TABLES = f"""
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,                  -- UTC, ISO 8601, as all times
    finished TEXT,                          -- NULL if the run was stopped
    labkit TEXT NOT NULL,                   -- version of the package
    checks TEXT NOT NULL,                   -- version of the course's checks (labkit.gradebook.checks_version)
    machine TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    policy TEXT NOT NULL                    -- text of the policy file; '' without one
);
CREATE TABLE learner (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE               -- compared byte by byte: look-alike names are different learners
);
CREATE TABLE note (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES run,
    learner INTEGER REFERENCES learner,     -- NULL if the note is about the whole class
    file TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY,
    learner INTEGER NOT NULL REFERENCES learner,
    lab TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    submitted TEXT NOT NULL,
    time_from TEXT NOT NULL CHECK (time_from IN ('timestamp.txt', 'file time')),
    UNIQUE (learner, lab, sha256),
    UNIQUE (learner, lab, number)
);
CREATE TABLE grading (
    id INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL REFERENCES attempt,
    run INTEGER NOT NULL REFERENCES run,
    checks TEXT NOT NULL,
    is_regrade INTEGER NOT NULL CHECK (is_regrade IN (0, 1)),
    finished TEXT NOT NULL
);
CREATE UNIQUE INDEX graded_once ON grading (attempt, checks) WHERE is_regrade = 0;
CREATE TABLE result (
    grading INTEGER NOT NULL REFERENCES grading,
    exercise TEXT NOT NULL,                 -- 'lab01.time_runs'
    title TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ({VERDICTS})),
    points REAL NOT NULL DEFAULT 0 CHECK (points BETWEEN 0 AND out_of),
    out_of REAL NOT NULL,
    message TEXT NOT NULL,
    details TEXT NOT NULL,
    PRIMARY KEY (grading, exercise)
) WITHOUT ROWID;
CREATE VIEW current_result AS               -- the newest result of each exercise of each attempt
    SELECT grading.attempt, result.*, max(result.grading) AS newest
    FROM result JOIN grading ON grading.id = result.grading
    GROUP BY grading.attempt, result.exercise;
{UNGRADED_TABLE}
"""
