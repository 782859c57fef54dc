"""Folders of submissions in every form: which files are found, which are left out with a note, and odd file names, which are
never run as code.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit.errors import InvalidRequest
from labkit.gradebook import collect as module
from labkit.gradebook.collect import MOST_ENTRIES, collect
from labkit.gradebook.names import look_alikes, name_of_folder, page_name, shown, visible
from labkit.grading.notebook_file import MOST_NOTEBOOK_BYTES
from tests.gradebook.classes import write


def files(root: Path) -> list[tuple[str, str]]:
    return [(notebook.learner, notebook.file) for notebook in collect(root).notebooks]


def said(root: Path, learner: str) -> str:
    return "\n".join(f"{note.file}: {note.text}" for note in collect(root).notes if note.learner == learner)


def test_notebooks_are_found_at_any_depth(tmp_path: Path) -> None:
    for path in ("ada/00.ipynb", "bert/lab00/00.ipynb", "bert/01.IPYNB", "bert/.ipynb_checkpoints/00-checkpoint.ipynb"):
        write(tmp_path / path, "{}")
    assert files(tmp_path) == [("ada", "00.ipynb"), ("bert", "01.IPYNB"), ("bert", "lab00/00.ipynb")]


def test_a_course_folder_of_nbgrader_is_taken(tmp_path: Path) -> None:
    for path in ("submitted/ada/lab00/00.ipynb", "release/lab00/00.ipynb", "source/lab00/00.ipynb"):
        write(tmp_path / path, "{}")
    assert files(tmp_path) == files(tmp_path / "submitted") == [("ada", "lab00/00.ipynb")]


def test_what_is_left_out_has_a_note(tmp_path: Path) -> None:
    ada = tmp_path / "ada"
    secret = write(tmp_path / "secret.ipynb", "{}")
    ada.mkdir()
    (ada / "link.ipynb").symlink_to(secret)
    (ada / "folder").symlink_to(tmp_path)
    (tmp_path / "eve").symlink_to(ada)
    os.mkfifo(ada / "fifo.ipynb")
    (ada / "named.ipynb").mkdir()
    with (ada / "large.ipynb").open("wb") as file:
        file.truncate(2 * MOST_NOTEBOOK_BYTES)  # a sparse file, which takes no space on disk
    write(ada / "a/b/c/d/e/f/g/deep.ipynb", "{}")
    found = collect(tmp_path)
    assert (found.learners, found.notebooks) == (["ada"], [])
    notes = said(tmp_path, "ada")
    for line in (
        "link.ipynb: This is a symbolic link",
        "folder: This is a symbolic link",
        "fifo.ipynb: This is not a regular file",
        "named.ipynb: This is a folder with the name of a notebook",
        "large.ipynb: This notebook has 200 MiB; at most 100 MiB are read",
        "a/b/c/d/e/f: This folder is more than 6 folders deep",
        ": The folder has no notebook that can be read.",
    ):
        assert line in notes
    of_class = said(tmp_path, "")
    assert "eve: This is a symbolic link" in of_class
    assert "secret.ipynb: This notebook is not in a learner's folder" in of_class


def test_a_folder_with_too_many_files_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 3)
    for number in range(5):
        write(tmp_path / "ada" / f"{number}.ipynb", "{}")
    assert len(files(tmp_path)) == 3 < MOST_ENTRIES
    assert "more than 3 files; the rest is not read" in said(tmp_path, "ada")


def test_a_folder_without_learners_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "00.ipynb", "{}")
    for place in (tmp_path, tmp_path / "gone", tmp_path / "00.ipynb"):
        with pytest.raises(InvalidRequest):
            collect(place)


ALIKE = ["ada", "\u0430da", "Ada", "ad\u00e1", "ada\u0301", "a\u200bda", "\uff41da"]
"""Seven different names that look alike: with a Cyrillic letter, a capital, an accent (composed or not), an invisible space,
and full-width letters.
"""


def test_look_alike_names_stay_apart(tmp_path: Path) -> None:
    for name in ALIKE:
        write(tmp_path / name / "00.ipynb", "{}")
    found = collect(tmp_path)
    assert sorted(found.learners) == sorted(ALIKE)
    assert len({page_name(name) for name in ALIKE}) == len(ALIKE)
    assert [sorted(group) for group in look_alikes([*ALIKE, "bert"])] == [sorted(ALIKE)]
    assert "\\u0430da" in said(tmp_path, "")


NAMES = [
    "../../etc",
    "-rf",
    "a/b",
    "nul\\",
    "line\nend",
    "tab\t",
    "\u202eevil",
    "x" * 300,
    "=1+1",
    "<b>",
    "%s",
    "...",
    "ѕ" * 50,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_never_a_path(name: str) -> None:
    page = page_name(name)
    assert len(page) < 70
    assert page.isascii()
    assert page.replace("-", "").removesuffix(".html").isalnum()
    assert shown(name).isprintable()


def test_a_name_that_is_no_text_is_written_with_its_bytes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/a\xff"
    os.mkdir(folder)
    assert collect(tmp_path).learners == ["a\\xff"]
    (tmp_path / "a\\xff").mkdir()
    assert collect(tmp_path).learners == ["a\\xff"]
    assert "A second folder has this name" in said(tmp_path, "")
    assert name_of_folder("plain") == "plain"


def test_hidden_characters_become_visible() -> None:
    assert visible("a\u202eb\x1b[31mc\ud800\u200d\x00\n\t\u00e9") == "a\\u202eb\\x1b[31mc\\ud800\\u200d\\x00\n\t\u00e9"
    assert shown("a\nb") == "a\\nb" != shown("a b")
