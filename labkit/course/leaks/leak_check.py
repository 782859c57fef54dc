"""Searches a built course for answers. A course with an answer in it is not released."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labkit.course.leaks.forbidden import Forbidden
from labkit.course.leaks.search import Found, search_code, search_lines, search_sentences
from labkit.course.leaks.shipped import UNREAD, ShippedFile, files_in
from labkit.course.leaks.texts import Text, pictures_of_notebook, texts_of_notebook
from labkit.grading.sandbox import HIDDEN

LISTS = ("RECORD", "SOURCES.txt", "top_level.txt")
"""Files of a Python package that list other files."""


@dataclass(frozen=True)
class Leak:
    """An answer in a file of the release: the file, the place in the file, the kind of answer, and its source, if known."""

    file: str
    where: str
    what: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.file}{self.where}: {self.what}{self.source and f' of {self.source}'}"


def find_leaks(archive: Path, forbidden: Forbidden) -> list[Leak]:
    """All leaks in a zip file and in the archives inside it.

    A place with answers from several sources is listed once for each source.
    """
    found: dict[Leak, None] = {}
    for file in files_in(archive):
        found |= dict.fromkeys(_in_file(file, forbidden))
    return list(found)


def is_hidden(path: PurePosixPath) -> bool:
    """Whether a path is one of labkit's folders with answers, is inside such a folder, or is compiled from such a folder."""
    parts = [part.partition(".")[0] for part in path.parts if part != "__pycache__"]
    for folder in HIDDEN:
        wanted = folder.split("/")
        where = ["labkit", *wanted] if len(wanted) == 1 else wanted[-1:]
        if any(parts[start : start + len(where)] == where for start in range(len(parts))):
            return True
    return False


def _in_file(file: ShippedFile, forbidden: Forbidden) -> Iterator[Leak]:
    if is_hidden(file.path):
        yield Leak(file.place, "", "a file from a folder with answers")
        return
    if file.path.suffix in UNREAD:
        return
    try:
        content = file.content.decode("utf-8")
    except UnicodeDecodeError:
        content = "\0"
    if "\0" in content:
        yield Leak(file.place, "", "a file that cannot be searched; only texts and " + ", ".join(UNREAD) + " are released")
        return
    if file.path.name in LISTS:
        yield from _in_list(file, content)
    if file.path.suffix == ".ipynb":
        yield from _in_notebook(file, content, forbidden)
    else:
        yield from _in_text(file, Text("", content, file.path.suffix == ".py"), forbidden)


def _in_list(file: ShippedFile, content: str) -> Iterator[Leak]:
    for number, line in enumerate(content.splitlines(), 1):
        if is_hidden(PurePosixPath(line.split(",")[0].strip())):
            yield Leak(file.place, f":{number}", "names a file from a folder with answers")


def _in_notebook(file: ShippedFile, content: str, forbidden: Forbidden) -> Iterator[Leak]:
    try:
        texts = list(texts_of_notebook(content))
    except (ValueError, AttributeError, TypeError) as error:
        yield Leak(file.place, "", f"a notebook that cannot be read ({error})")
        return
    for where in pictures_of_notebook(content):
        yield Leak(file.place, f", {where}", "a picture, which cannot be searched; a learner's notebook must have no outputs")
    for text in texts:
        yield from _in_text(file, text, forbidden)


def _in_text(file: ShippedFile, text: Text, forbidden: Forbidden) -> Iterator[Leak]:
    for found in _searched(file, text, forbidden):
        where = f", {text.where}, line {found.line}" if text.where else f":{found.line}"
        yield Leak(file.place, where, found.what, found.source)


def _searched(file: ShippedFile, text: Text, forbidden: Forbidden) -> Iterator[Found]:
    yield from search_code(text, forbidden)
    yield from search_sentences(text, forbidden)
    # Python modules may contain lines of answers: the last hint of an exercise is such a line, and modules hold the hints.
    if file.path.suffix != ".py":
        yield from search_lines(text, forbidden)
