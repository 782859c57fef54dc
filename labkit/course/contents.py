"""Fills the folder that a learner gets: notebooks, the files that set up the environment, and a README."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import nbformat

from labkit.course.make_sheet import MadeSheet
from labkit.errors import InvalidRequest
from labkit.exercises.core_path import CORE
from labkit.exercises.titles import LAB_TITLES
from labkit.grading.core_notebook import core_notebook
from labkit.grading.hint_costs import COURSE_FILE
from labkit.grading.release import Lab
from labkit.plurals import counted

TEMPLATES = Path("environment") / "course"
"""The folder with the learner's README and Makefile, relative to the course's folder."""
ENVIRONMENT = ("setup.sh", "constraints.txt", "jupyterlab_overrides.json", "jupyterlab_page_config.json")
PACKAGES = "packages"
"""The folder with the wheel. `environment/setup.sh` installs the wheel that it finds in this folder."""


def copy_contents(root: Path, folder: Path, labs: Sequence[Lab], track: str) -> None:
    """Copy all contents of the course except the README and the wheel into `folder`.

    `course.toml` is copied if it exists in `labs/`. On the track "core", the notebooks are copied without the extra exercises.
    Raises `InvalidRequest` if a file is missing.
    """
    copies = {root / "environment" / name: folder / "environment" / name for name in ENVIRONMENT}
    copies |= {root / TEMPLATES / "Makefile": folder / "Makefile", root / "LICENSE": folder / "LICENSE"}
    copies |= {lab.student: folder / "labs" / lab.student.name for lab in labs}
    if (rules := root / "labs" / COURSE_FILE).is_file():
        copies[rules] = folder / "labs" / COURSE_FILE
    if missing := [str(source) for source in copies if not source.is_file()]:
        raise InvalidRequest(f"the course lacks {', '.join(missing)}; `labkit release` makes the notebooks")
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if target.suffix == ".sh" else 0o644)
    for notebook in [folder / "labs" / lab.student.name for lab in labs] if track == CORE else []:
        whole = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
        notebook.write_text(nbformat.writes(core_notebook(whole)) + "\n", "utf-8")  # type: ignore[no-untyped-call]


def readme(root: Path, labs: Sequence[Lab], sheet: MadeSheet | None, platform: str) -> str:
    """The text of the learner's README. `platform` is the platform that the wheel was built for, such as "linux_x86_64"."""
    text = (root / TEMPLATES / "README.md").read_text("utf-8")
    rows = [f"| [{lab.number}](labs/{lab.student.name}) | {LAB_TITLES.get(lab.number, '')} |" for lab in labs]
    table = "\n".join(["| lab | title |", "| --- | --- |", *rows])
    for name, value in {"labs": table, "answers": _about_answers(sheet), "platform": platform}.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def _about_answers(sheet: MadeSheet | None) -> str:
    """The sentences that tell the learner how this copy of labkit checks answers."""
    if sheet is None:
        return (
            "This copy of labkit has no answers. A check finds errors and broken rules, but only the instructor's grader can "
            "say whether the values of your function are right."
        )
    words = (
        "This copy of labkit has no reference solutions. It compares your values with an answer sheet. The instructor's grader "
        "uses other inputs, and can also say which common mistake you have made."
    )
    if sheet.left_out:
        left = counted(len(sheet.left_out), "exercise")
        words += f" For {left} the sheet has no values, and only the grader decides: {', '.join(sheet.left_out)}."
    return words
