"""Finds the learners and their notebooks in a folder of submissions. No notebook is read, and no symbolic link is followed.

A submission is a folder named after the learner, with notebooks at any depth. If the folder of submissions contains a folder
`submitted`, as a course folder of nbgrader does, then the learners are the folders in `submitted`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from labkit.errors import InvalidRequest
from labkit.gradebook.names import look_alikes, name_of_folder, spelled, visible
from labkit.grading.notebook_file import MOST_NOTEBOOK_BYTES
from labkit.measure.ladder_file import FILE_END

MOST_DEPTH = 6
"""Folders inside a learner's folder are searched up to this depth."""
MOST_ENTRIES = 2000
"""At most this many files and folders of one learner are examined."""
_LEFT_OUT = (".ipynb_checkpoints", "__pycache__", ".git")


@dataclass(frozen=True)
class Note:
    """A remark in words about a file of a learner. If `learner` is "", the remark is about the whole class."""

    learner: str
    file: str
    text: str


@dataclass(frozen=True)
class Notebook:
    """A notebook that can be read, or a possible ladder file. `file` is its path in the learner's folder, made safe to show."""

    learner: str
    path: Path
    file: str


@dataclass
class Collected:
    """The learners sorted by name, the notebooks that were found, and notes on everything that was left out.

    `ladders` are files that could be speed ladders.
    """

    learners: list[str] = field(default_factory=list)
    notebooks: list[Notebook] = field(default_factory=list)
    ladders: list[Notebook] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def collect(submissions: Path) -> Collected:
    """Find learners and notebooks. Raises `InvalidRequest` if `submissions` is not a folder or has no learner's folder."""
    root = submissions / "submitted"
    if root.is_symlink() or not root.is_dir():
        root = submissions
    try:
        entries = sorted(os.scandir(root), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise InvalidRequest(
            f"the submissions {submissions} cannot be read ({error.strerror}); give a folder that has a folder for each learner"
        ) from None
    found = Collected()
    for entry in entries:
        _take(entry, found)
    if not found.learners:
        raise InvalidRequest(f"{submissions} has no learner's folder; give a folder that has a folder for each learner")
    for group in look_alikes(found.learners):
        names = ", ".join(spelled(name) for name in group)
        found.notes.append(Note("", "", f"These names look alike, but each of them is a different learner: {names}."))
    return found


def _take(entry: os.DirEntry[str], found: Collected) -> None:
    name = name_of_folder(entry.name)
    if entry.is_symlink():
        found.notes.append(Note("", visible(name), "This is a symbolic link, which is not followed."))
    elif not entry.is_dir():
        if entry.name.lower().endswith(".ipynb"):
            found.notes.append(Note("", visible(name), "This notebook is not in a learner's folder, so it is not graded."))
    elif name in _LEFT_OUT:
        return
    elif name in found.learners:
        found.notes.append(Note("", visible(name), "A second folder has this name, so it is not graded."))
    else:
        found.learners.append(name)
        _notebooks_of(name, Path(entry.path), found)


def _notebooks_of(learner: str, folder: Path, found: Collected) -> None:
    before = len(found.notebooks)
    notes: list[Note] = []
    for number, (path, file, problem) in enumerate(_walk(folder, "", 1)):
        if number >= MOST_ENTRIES:
            notes.append(Note(learner, "", f"The folder has more than {MOST_ENTRIES} files; the rest is not read."))
            break
        if problem:
            notes.append(Note(learner, file, problem))
        elif path.name.lower().endswith(".ipynb"):
            if why := _why_unreadable(path):
                notes.append(Note(learner, file, why))
            else:
                found.notebooks.append(Notebook(learner, path, file))
        elif path.name.lower().endswith(FILE_END):
            found.ladders.append(Notebook(learner, path, file))
    if len(found.notebooks) == before:
        notes.append(Note(learner, "", "The folder has no notebook that can be read."))
    found.notes += notes


def _walk(folder: Path, place: str, depth: int) -> Iterator[tuple[Path, str, str]]:
    """Every entry of a folder, with its path in the learner's folder, and the reason if it is left out ("" if it is kept)."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield folder, place.rstrip("/"), f"This folder cannot be read: {error.strerror}."
        return
    for entry in entries:
        file = place + visible(name_of_folder(entry.name))
        if entry.is_symlink():
            yield Path(entry.path), file, "This is a symbolic link, which is not followed."
        elif not entry.is_dir():
            yield Path(entry.path), file, ""
        elif entry.name in _LEFT_OUT:
            continue
        elif depth >= MOST_DEPTH:
            yield Path(entry.path), file, f"This folder is more than {MOST_DEPTH} folders deep, so it is not read."
        else:
            yield Path(entry.path), file, ""
            yield from _walk(Path(entry.path), f"{file}/", depth + 1)


def _why_unreadable(path: Path) -> str:
    try:
        status = path.lstat()
    except OSError as error:
        return f"This notebook cannot be read: {error.strerror}."
    if stat.S_ISDIR(status.st_mode):
        return "This is a folder with the name of a notebook."
    if not stat.S_ISREG(status.st_mode):
        return "This is not a regular file, so it is not read."
    if status.st_size > MOST_NOTEBOOK_BYTES:
        return (
            f"This notebook has {status.st_size / 2**20:.0f} MiB; at most {MOST_NOTEBOOK_BYTES // 2**20} MiB are read. "
            "Clear its outputs and save it again."
        )
    return ""
