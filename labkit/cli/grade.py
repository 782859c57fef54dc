"""`labkit grade`: grades a class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.output import JsonOption, print_json, say
from labkit.plurals import counted

if TYPE_CHECKING:
    from labkit.gradebook.class_run import Summary


def grade(
    submissions: Annotated[
        Path,
        typer.Argument(metavar="SUBMISSIONS", help="A folder with one folder per learner, or an nbgrader folder."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for the gradebook, CSV files and feedback pages.")],
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", help="How many notebooks are graded at a time; if left out, 1, or as many as the cluster has threads."
        ),
    ] = None,
    executor: Annotated[
        str,
        typer.Option("--executor", help="Where to grade: processes (on this machine), or a Dask cluster, dask://HOST:PORT."),
    ] = "processes",
    lab: Annotated[str | None, typer.Option("--lab", help="Grade only this lab: 01 for example.")] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", help="A TOML file with deadlines, and with rules for late work, repeated attempts and extras."
        ),
    ] = None,
    regrade: Annotated[
        list[str] | None,
        typer.Option(
            "--regrade",
            metavar="LEARNER[:EXERCISE]",
            help="Grade only this submission or exercise again; you can give the option several times.",
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            envvar="LABKIT_GRADE_SEED",
            help="A secret text that determines the inputs of the checks, so that no learner knows them.",
        ),
    ] = None,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Run learners' code without a sandbox, as your own user.")] = False,
    nbgrader: Annotated[
        Path | None,
        typer.Option("--nbgrader", help="Also write the scores to this nbgrader gradebook: gradebook.db for example."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Grade the notebooks of a class, and write a gradebook, CSV files and feedback pages.

    If the command was stopped, run it again: it continues where it stopped. A submission is graded again only if the submission
    or the course's checks have changed, or if the grading machine failed. All earlier results stay in the gradebook.
    Each function runs in a sandbox (bubblewrap) with limits on time, memory and processes. In the sandbox, the function sees no
    network, no other submission, no answers and none of your files. With --seed, the function is called with inputs that no
    learner has seen.

    Example: labkit grade submissions/ --out grades/ --jobs 2 --seed "a secret of this class"
    """
    from labkit.cli.grade_progress import GradeProgress
    from labkit.gradebook.class_run import grade_class
    from labkit.gradebook.executor_at import executor_at
    from labkit.gradebook.policy import read_policy

    if nbgrader:  # Import it now, so that a missing package is noticed before the class is graded.
        from labkit.gradebook.nbgrader_book import fill
    options: dict[str, Any] = {"lab": lab, "policy": read_policy(policy) if policy else None, "regrade": regrade or ()}
    options |= {"secret": seed, "sandboxed": not unsafe}
    with executor_at(executor, submissions) as (pool, workers), GradeProgress() as watcher:
        try:
            at_once = workers if jobs is None else jobs
            summary = grade_class(submissions, out, watcher, jobs=at_once, executor=pool, **options)
        except KeyboardInterrupt:
            say("stopped; run the same command again to continue")
            raise
    _print(summary, out)
    if nbgrader:
        fill(nbgrader, summary.report)
    if json:
        report = summary.report
        verdicts = Counter(item.verdict for score in report.scores for item in score.items)
        print_json(
            {
                "submissions": summary.graded + summary.known + summary.ungraded,
                "graded": summary.graded,
                "graded_before": summary.known,
                "could_not_be_graded": summary.ungraded,
                "learners": len(report.learners),
                "track": report.track,
                "verdicts": dict(verdicts),
                "gradebook": str(summary.gradebook),
            }
        )


def _print(summary: Summary, out: Path) -> None:
    """Print a table of the class, the notes on the whole class, and where the files are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from labkit.exercises.core_path import CORE
    from labkit.gradebook.names import shown, visible
    from labkit.grading.verdict import INCONCLUSIVE, UNGRADED, sign

    report = summary.report
    table = Table("learner", "score", *(f"lab {lab}" for lab in report.labs), box=box.SIMPLE)
    for learner in report.learners:
        scores = report.of_learner(learner)
        cells = []
        for score in scores:
            also = f", {sign(UNGRADED)} {UNGRADED}" if score.ungraded and score.verdict != UNGRADED else ""
            cells.append(f"{sign(score.verdict)} {score.verdict}, {score.score:g} of {score.most:g}{also}")
        table.add_row(*map(Text, [shown(learner), f"{sum(score.score for score in scores):g}", *cells]))
    Console().print(table)
    for note in report.notes_on(""):
        say(f"note: {note.file}: {visible(note.text)}" if note.file else f"note: {visible(note.text)}")
    with_notes = {note.learner for note in report.notes if note.learner}
    if with_notes:
        say(f"There are notes on the files of {counted(len(with_notes), 'learner')}; see {out / 'class.html'}.")
    for score in report.scores:
        if any(item.verdict == INCONCLUSIVE for item in score.items):
            say(f"{shown(score.learner)}, lab {score.lab}: the machine was busy; use --regrade when it is not.")
    failed = [score for score in report.scores if score.ungraded]
    for score in failed:
        say(f"{shown(score.learner)}, lab {score.lab}: {visible(score.ungraded)}")
    if failed:
        say(
            "The grading machine failed. Run the same command again: it grades what could not be graded. Meanwhile, no learner "
            "loses an attempt or an earlier result."
        )
    if report.track == CORE:
        print("Only the exercises on the core path count.")
    left = f", {summary.ungraded} {UNGRADED}" if summary.ungraded else ""
    print(f"{counted(summary.graded, 'submission')} graded, {summary.known} graded before{left}")
    print(f"{out / 'class.html'}, {out / 'feedback'}, {out / '*.csv'}, {summary.gradebook}")
