"""`labkit release`: makes the notebooks from their sources, and builds the course folder for learners."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say
from labkit.errors import InvalidRequest

OUT = Path("dist/course")


def release(
    folder: Annotated[Path, typer.Option(help="The course's folder, with solutions/ and labs/.")] = Path(),
    lab: Annotated[list[str] | None, typer.Option(help="Only this lab: 01 for example; can be given several times.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; list the notebooks that do not match their sources.")
    ] = False,
    course: Annotated[
        bool,
        typer.Option(
            "--course",
            help="Build the course for learners, as a zip file: the notebooks, and a copy of labkit without the answers.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help=f"With --course: the folder to make; if left out, {OUT}.")] = None,
    answer_sheet: Annotated[
        bool, typer.Option(help="With --course: include the correct values, so that a learner's check can compare with them.")
    ] = True,
    track: Annotated[
        str, typer.Option(help="With --course: core leaves the extras out of the notebooks, full keeps them.")
    ] = "full",
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite notebooks that a person has edited, or a course that was built before.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write labs/*.ipynb (stubs) and solutions/*.ipynb (solved and executed) from solutions/*.py.

    With --course, build the course for learners instead. Nothing is built if the learners' course would contain a reference, a
    known mistake or a solution.

    Example: labkit release --course --out dist/course
    """
    if course and check:
        raise InvalidRequest("--check and --course cannot be given together; --course checks the learners' notebooks anyway")
    if not course and (out is not None or not answer_sheet or track != "full"):
        raise InvalidRequest("--out, --track and --no-answer-sheet are options of --course; give --course, too")
    if course:
        _build(folder, out or OUT, lab or [], track, answer_sheet, force, json)
    elif check:
        _check(folder, lab or [], json)
    else:
        _write(folder, lab or [], force, json)


def _check(folder: Path, numbers: list[str], json: bool) -> None:
    from labkit.grading.release import choose_labs, stale

    labs = choose_labs(folder, numbers)
    behind = [str(path) for found in labs for path in stale(found)]
    print("\n".join(behind) if behind else f"{2 * len(labs)} notebooks match their sources")
    if json:
        print_json({"stale": behind})
    raise SystemExit(1 if behind else 0)


def _write(folder: Path, numbers: list[str], force: bool, json: bool) -> None:
    from labkit.grading.release import choose_labs
    from labkit.grading.release import release as write

    labs = choose_labs(folder, numbers)
    written: list[str] = []
    for number, found in enumerate(labs, 1):
        say(f"[{number}/{len(labs)}] {found.source.name}: executing the solved notebook")
        written += map(str, write(found, force=force))
    print("\n".join(written))
    if json:
        print_json({"written": written})


def _build(folder: Path, out: Path, numbers: list[str], track: str, answer_sheet: bool, force: bool, json: bool) -> None:
    from labkit.course.build import build_course
    from labkit.gradebook.checks_version import checks_version

    made = build_course(folder, out, checks_version(), labs=numbers, track=track, with_sheet=answer_sheet, force=force, say=say)
    sheet = made.sheet
    print(f"{made.archive}: labs {', '.join(made.labs)} ({made.track} track), {made.archive.stat().st_size / 1e6:.1f} MB")
    print(f"{made.folder}: the same, unpacked; packages/{made.wheel} is labkit without the answers")
    if sheet:
        print(f"The answer sheet has the values of {sheet.exercises} exercises ({sheet.size / 1e6:.2f} MB).")
        for name, why in sheet.left_out.items():
            print(f"  not on it: {name}: {why}")
    else:
        print("There is no answer sheet: checks cannot say whether values are right.")
    if not made.has_kernels:
        say("The wheel has no CPU kernels, because no C++ compiler built them here: torch's own kernels will run.")
    if json:
        about = {"exercises": sheet.exercises, "bytes": sheet.size, "left_out": sheet.left_out} if sheet else None
        print_json(
            {
                "out": str(made.out),
                "archive": str(made.archive),
                "labs": list(made.labs),
                "track": made.track,
                "wheel": made.wheel,
                "cpu_kernels": made.has_kernels,
                "answer_sheet": about,
            }
        )
