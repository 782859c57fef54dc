"""One run of `labkit grade`: it collects the notebooks, reads them, grades the new ones, and writes the exports.

If the machine fails while it grades (a grader is killed, a sandbox does not start), nobody's grade may depend on it, and nobody
may gain by causing it. So an exercise that could not be graded is not a result: its earlier result stays, and the next run
grades it again. The learner sees no reason. As soon as one exercise has a result that the learner can see, the submission is an
attempt. In one run, a submission is tried at most twice.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import labkit
from labkit.errors import InvalidRequest, NotAvailable
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import exercise as find
from labkit.exercises.registry import of_lab
from labkit.gradebook.book import Gradebook, Submission, Ungraded
from labkit.gradebook.checks_version import checks_version
from labkit.gradebook.collect import Collected, Note, Notebook, collect
from labkit.gradebook.executor_graders import ExecutorGraders
from labkit.gradebook.export import export
from labkit.gradebook.grader import Done, GradeTask, ReadTask
from labkit.gradebook.graders import SILENT_SECONDS, Graders, Lost
from labkit.gradebook.names import shown
from labkit.gradebook.policy import Policy
from labkit.gradebook.reading import Reading
from labkit.gradebook.report import Report, report_of
from labkit.gradebook.secret_seeds import fingerprint
from labkit.gradebook.submitted_ladders import submitted_board
from labkit.grading.find_answer import need_answers
from labkit.grading.judge import ungraded
from labkit.grading.sandbox import need_sandbox
from labkit.grading.verdict import UNGRADED, Verdict

READ_SECONDS = 300.0
"""The time limit for reading one notebook. Most notebooks take far less than a second."""
BOOK = "gradebook.sqlite"
AnyGraders = Graders | ExecutorGraders


class Watcher(Protocol):
    """An observer of a run, such as a progress bar. The names and files that it gets are not yet made safe to show."""

    def starts(self, items: int, submissions: int, known: int) -> object:
        """Called when grading starts, with the numbers of items and submissions to grade, and of submissions graded before."""

    def has(self, submission: Submission, verdict: Verdict) -> object:
        """Called once for each item, with its last verdict in this run."""

    def finished(self, submission: Submission) -> object:
        """Called when this run is done with a submission and has written its verdicts to the gradebook."""


@dataclass(frozen=True)
class Summary:
    """The outcome of a run: how many submissions it graded, how many were graded before, and the content of the exports.

    `ungraded` is the number of submissions with exercises that the run could not grade, because the machine failed or a newer
    notebook could not be read.
    """

    gradebook: Path
    graded: int
    known: int
    report: Report
    ungraded: int = 0


@dataclass(frozen=True)
class _Job:
    """A submission that this run grades, and the exercises to grade in it."""

    submission: Submission
    path: Path
    exercises: tuple[Exercise, ...]
    is_regrade: bool = False


def grade_class(
    submissions: Path,
    out: Path,
    watcher: Watcher,
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    lab: str | None = None,
    policy: Policy | None = None,
    regrade: Sequence[str] = (),
    secret: str | None = None,
    sandboxed: bool = True,
) -> Summary:
    """Grade all submissions that are new or could not be graded earlier, and write the gradebook and the exports to `out`.

    `secret` decides the inputs of the functions. Without a secret, the inputs are the same as in the notebook's own checks. If
    `sandboxed` is false, the learners' code runs as the current user.

    `jobs` notebooks are graded at a time: by `executor` or, if there is no executor, by processes that this run starts. If
    `lab` is set, only this lab is graded. Each entry of `regrade` is `LEARNER` or `LEARNER:EXERCISE`; if there are entries,
    only these submissions are graded again. Raises `InvalidRequest` for wrong values. Raises `NotAvailable` if another run uses
    the same folder, if this machine would grade but has no sandbox, if this copy of labkit has no answers, or if the executor
    takes no more work.
    """
    need_answers("grade a class")
    rules = policy or Policy()
    if jobs < 1:
        raise InvalidRequest(f"jobs is {jobs}; give at least 1")
    if lab is not None:
        of_lab(lab)
    if out.resolve().is_relative_to(submissions.resolve()):
        raise InvalidRequest(f"the grades {out} are inside the submissions {submissions}; give a folder outside with --out")
    if sandboxed and executor is None:  # if there is an executor, the executor's machines need the sandbox
        need_sandbox()
    found = collect(submissions)
    chosen = _parse_regrade(regrade, found.learners)
    out.mkdir(parents=True, exist_ok=True)
    checks = checks_version() + (f"-{fingerprint(secret)}" if secret is not None else "")
    with _alone(out), Gradebook(out / BOOK) as book, _graders(jobs, executor) as graders:
        run = book.begin_run(
            labkit=labkit.__version__, checks=checks, machine=platform.platform(), jobs=jobs, policy=rules.text
        )
        readings = _read(graders, found)
        board = submitted_board(found)
        held = _hold_back(found, readings, lab)
        held_learners = {one.learner for one in held}
        submitted = _choose(found, readings, lab, held_learners)
        todo = _todo(book, submitted, checks, chosen)
        nothing = sorted(chosen.keys() - {job.submission.learner for job in todo} - held_learners)
        found.notes += [Note("", "", f"There is no notebook of {shown(learner)} to regrade.") for learner in nothing]
        book.add_learners(run, found.learners, found.notes)
        known = 0 if chosen else len(submitted) - len(todo)
        watcher.starts(sum(len(job.exercises) for job in todo), len(todo), known)
        failed: set[Submission] = set()
        for job, verdicts in _grade(graders, todo, watcher, secret, sandboxed):
            book.add_grading(run, job.submission, checks, verdicts, is_regrade=job.is_regrade)
            failed.discard(job.submission)
            if _ungraded(job, verdicts):
                failed.add(job.submission)
        left = _still_there(book.ungraded(), submitted, lab, held_learners) + held
        report = report_of(book, run, [lab] if lab else [], rules, left)
        export(out, report, board)
        book.end_run(run)
    held_labs = {(one.learner, one.lab) for one in held}
    return Summary(out / BOOK, len(todo) - len(failed), known, report, len(failed) + len(held_labs))


def _graders(jobs: int, executor: Executor | None) -> AnyGraders:
    return Graders(jobs) if executor is None else ExecutorGraders(executor, jobs)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock a folder of grades, because only one run at a time may use it."""
    import fcntl

    with (out / "gradebook.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise NotAvailable(f"another `labkit grade` is writing to {out}; wait until it has ended") from None
        yield


def _parse_regrade(regrade: Sequence[str], learners: Sequence[str]) -> dict[str, set[str]]:
    """The full names of the exercises to regrade, for each learner. An empty set means all exercises."""
    chosen: dict[str, set[str]] = {}
    for entry in regrade:
        learner, _, exercise = (entry, "", "") if entry in learners else entry.rpartition(":")
        if learner not in learners:
            raise InvalidRequest(f"there is no submission of {entry!r} to regrade; give LEARNER or LEARNER:EXERCISE")
        names = {find(exercise).name} if exercise else set()
        is_all = not names or chosen.get(learner) == set()
        chosen[learner] = set() if is_all else chosen.get(learner, set()) | names
    return chosen


def _read(graders: AnyGraders, found: Collected) -> dict[Path, Reading]:
    """Read all notebooks, and add the notes on them to the notes in `found`.

    If a grader ends while it reads a notebook, or the file cannot be read, the notebook is read once more, alone.
    """
    paths = [notebook.path for notebook in found.notebooks]
    readings, again = _read_once(graders, paths)
    for path in again:
        readings |= _read_once(graders, [path])[0]
    for notebook in found.notebooks:
        reading = readings[notebook.path]
        texts = [*reading.notes, *([reading.problem] if reading.problem else [])]
        found.notes += [Note(notebook.learner, notebook.file, text) for text in texts]
    return readings


def _read_once(graders: AnyGraders, paths: Sequence[Path]) -> tuple[dict[Path, Reading], list[Path]]:
    """Read these notebooks. The second value is a list of the notebooks that are worth another try."""
    readings: dict[Path, Reading] = {}
    again: list[Path] = []
    for number, message in graders.run(map(ReadTask, paths), READ_SECONDS):
        path = paths[number]
        if isinstance(message, Reading):
            readings[path] = message
            again += [] if message.sha256 else [path]
        elif isinstance(message, Lost):
            readings[path] = Reading("", "", "", {}, (), f"The notebook cannot be read: {message.why}.")
            again += [path]
    return readings, again


def _hold_back(found: Collected, readings: dict[Path, Reading], lab: str | None) -> list[Ungraded]:
    """The exercises of learners who have several notebooks, one of which could not be read. None of them is graded in this run.

    Otherwise an older notebook could be graded in place of the unread notebook, and count as an attempt. Adds a note for each
    of these learners.
    """
    held: list[Ungraded] = []
    for learner, file in {one.learner: one.file for one in found.notebooks if not readings[one.path].sha256}.items():
        labs = {each for one in found.notebooks if one.learner == learner for each in readings[one.path].labs}
        why = f"{file} could not be read, and an older notebook must not be graded in its place"
        held += [
            Ungraded(learner, each, "", file, exercise.name, why)
            for each in sorted(labs)
            if lab in (None, each)
            for exercise in of_lab(each)
        ]
        if labs:
            again = "If the next run cannot read this file either, remove it or submit it again."
            found.notes.append(Note(learner, file, f"No notebook was graded in this run, because {why}. {again}"))
    return held


def _choose(found: Collected, readings: dict[Path, Reading], lab: str | None, held: set[str]) -> list[tuple[Submission, Path]]:
    """Choose one notebook for each lab of each learner who is not in `held`.

    The chosen notebook is the notebook with the most functions. If several notebooks have equally many functions, the newest
    of them is chosen.
    """
    offers: dict[tuple[str, str], list[Notebook]] = {}
    for notebook in (one for one in found.notebooks if one.learner not in held):
        for each in readings[notebook.path].labs if not readings[notebook.path].problem else ():
            if lab in (None, each):
                offers.setdefault((notebook.learner, each), []).append(notebook)
    chosen = []
    for (learner, each), notebooks in sorted(offers.items()):
        best = max(notebooks, key=lambda one: (readings[one.path].labs[each], readings[one.path].submitted, one.file))
        for other in notebooks:
            if other is not best:
                text = f"This notebook is not graded for lab {each}, because {best.file} is graded."
                found.notes.append(Note(learner, other.file, text))
        reading = readings[best.path]
        about = Submission(learner, each, reading.sha256, best.file, reading.submitted, reading.time_from)
        chosen.append((about, best.path))
    return chosen


def _todo(
    book: Gradebook, submitted: Sequence[tuple[Submission, Path]], checks: str, regrade: dict[str, set[str]]
) -> list[_Job]:
    """The submissions to grade, each with the exercises that have no result yet, or could not be graded in an earlier run.

    In a regrade, these exercises are added to those that are asked for. Submissions that could not be graded earlier come last:
    if they make a grader hang again, the others do not have to wait for them.
    """
    failed = {(one.learner, one.sha256, one.exercise) for one in book.ungraded()}
    jobs: list[tuple[bool, _Job]] = []
    for submission, path in submitted:
        known = book.graded(submission, checks)
        again = {name for learner, sha256, name in failed if (learner, sha256) == (submission.learner, submission.sha256)}
        asked = regrade.get(submission.learner)
        if regrade and asked is None:
            continue
        exercises = tuple(
            exercise
            for exercise in of_lab(submission.lab)
            if exercise.name not in known or exercise.name in again or (asked is not None and exercise.name in (asked or known))
        )
        if exercises:
            jobs.append((bool(again), _Job(submission, path, exercises, is_regrade=bool(known))))
    return [job for _, job in sorted(jobs, key=lambda one: one[0])]


def _grade(
    graders: AnyGraders, jobs: Sequence[_Job], watcher: Watcher, secret: str | None, sandboxed: bool
) -> Iterator[tuple[_Job, list[Verdict]]]:
    """Grade the jobs, and yield each one with its verdicts.

    At the end, the exercises that could not be graded are tried once more, and their job is yielded again with the new
    verdicts. Here jobs run one by one, because several jobs together can need more memory than the machine has.
    """
    alone: list[_Job] = []
    for job, verdicts, lost in _run(graders, jobs, watcher, secret, sandboxed):
        yield job, verdicts
        rest = _ungraded(job, verdicts)
        if rest and (lost is None or lost.try_again):
            alone.append(replace(job, exercises=rest, is_regrade=job.is_regrade or len(rest) < len(verdicts)))
        else:
            _finish(job, verdicts, watcher)
    for each in alone:
        for job, verdicts, _ in _run(graders, [each], watcher, secret, sandboxed):
            yield job, verdicts
            _finish(job, verdicts, watcher)


def _run(
    graders: AnyGraders, jobs: Sequence[_Job], watcher: Watcher, secret: str | None, sandboxed: bool
) -> Iterator[tuple[_Job, list[Verdict], Lost | None]]:
    """Grade the jobs once, and yield each one with a verdict on each of its exercises and, if its grader was lost, the reason.

    If a grader is lost, the exercises that it had not finished get the verdict "could not be graded".
    """
    found: list[list[Verdict]] = [[] for _ in jobs]
    tasks = [
        GradeTask(job.path, job.submission.sha256, tuple(each.name for each in job.exercises), secret, sandboxed)
        for job in jobs
    ]
    for number, message in graders.run(tasks, SILENT_SECONDS):
        job, verdicts = jobs[number], found[number]
        if isinstance(message, Verdict):
            verdicts.append(message)
            if message.verdict != UNGRADED:
                watcher.has(job.submission, message)
        elif isinstance(message, Lost):
            verdicts += [ungraded(exercise, message.why) for exercise in job.exercises[len(verdicts) :]]
            yield job, verdicts, message
        elif isinstance(message, Done):
            yield job, verdicts, None


def _still_there(
    found: Sequence[Ungraded], submitted: Sequence[tuple[Submission, Path]], lab: str | None, held: set[str]
) -> list[Ungraded]:
    """The exercises that a later run can still grade: those of a submission in the folder, or not looked at in this run."""
    here = {(submission.learner, submission.lab, submission.sha256) for submission, _ in submitted}
    return [
        one for one in found if lab not in (None, one.lab) or one.learner in held or (one.learner, one.lab, one.sha256) in here
    ]


def _ungraded(job: _Job, verdicts: Sequence[Verdict]) -> tuple[Exercise, ...]:
    """The exercises of a job that could not be graded."""
    return tuple(each for each, verdict in zip(job.exercises, verdicts, strict=True) if verdict.verdict == UNGRADED)


def _finish(job: _Job, verdicts: Sequence[Verdict], watcher: Watcher) -> None:
    """Tell the observer that this run is done with a submission."""
    for verdict in verdicts:
        if verdict.verdict == UNGRADED:
            watcher.has(job.submission, verdict)
    watcher.finished(job.submission)
