"""A notebook is read without running it: its labs, hash and time are found, and each oddity gives a note."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from labkit.gradebook.grader import ReadTask, answers
from labkit.gradebook.reading import MOST_NOTE, MOST_NOTES, Reading, digest, read_notebook, time_of
from tests.gradebook.classes import HALF, HEAD, SOLVED, STUB, notebook, write

CHECK = "check(kv_cache_bytes)"


def read(tmp_path: Path, text: str) -> str:
    """The notes on a notebook and its problem, one per line."""
    reading = read_notebook(write(tmp_path / "00.ipynb", text))
    return "\n".join([*reading.notes, reading.problem])


FORMS = {
    "copied": (
        notebook(SOLVED, CHECK, SOLVED),
        "kv_cache_bytes is defined in cells 1 and 3; the last definition that runs counts",
    ),
    "check copied": (notebook(SOLVED, CHECK, CHECK), "The check of kv_cache_bytes is in cells 2 and 3"),
    "check deleted": (notebook(SOLVED), "These functions have no check cell: parameter_count, weight_gib, kv_cache_bytes"),
    "check retyped": (notebook(SOLVED, text_cells=(CHECK,)), "The check of kv_cache_bytes in cell 2 is not in a code cell"),
    "split": (
        notebook(SOLVED.split("\n")[0], SOLVED.split("\n")[1], CHECK),
        "Cell 1 is left out, because Jupyter cannot run it",
    ),
    "reordered": (notebook(SOLVED, "def weight_gib(a, b, c):\n    pass"), "kv_cache_bytes is defined before weight_gib"),
    "leftover": (
        notebook(f"{SOLVED}\n    raise NotImplementedError"),
        "has a body and still contains `raise NotImplementedError`",
    ),
    "magics": (notebook("%matplotlib inline", "!ls", SOLVED), "Magics or shell commands are in cells 1 and 2"),
    "cell magic": (notebook("%%bash\nls", SOLVED), "the magic %%bash defines no names"),
    "not JSON": ("hello", "The file is not a notebook: the file is not JSON: line 1"),
    "empty": ("", "the file is empty"),
    "a list": ("[]", "contains a JSON list, not cells"),
    "nested": ("[" * 100_000, "not JSON"),
    "conflict": ("<<<<<<< a\n=======\n>>>>>>> b\n", "in conflict after a merge: line 1 starts with <<<<<<<"),
    "conflict in a cell": (notebook("<<<<<<< a\nx = 1\n=======\nx = 2\n>>>>>>> b", SOLVED), "marks of a merge conflict"),
    "another kernel": (notebook(SOLVED, metadata={"kernelspec": {"language": "julia"}}), "is for a kernel of julia"),
    "nothing of the course": (notebook("x = 1"), "defines none of the functions of the course"),
    "nbformat 3": (
        json.dumps({"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "language": "python", "input": SOLVED}]}]}),
        "The notebook is in the old format nbformat 3",
    ),
    "a strange receipt": (notebook(SOLVED), "timestamp.txt contains 'yesterday', which is not a time with UTC or an offset"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_odd_form_has_its_note(form: str, tmp_path: Path) -> None:
    text, said = FORMS[form]
    if "receipt" in form:
        write(tmp_path / "timestamp.txt", "yesterday")
    found = read(tmp_path, text)
    assert said in found
    assert str(tmp_path) not in found


def test_a_clean_notebook_has_no_notes(tmp_path: Path) -> None:
    names = ["parameter_count", "weight_gib", "kv_cache_bytes", "gpus_needed", "roofline_time", "decode_floor_ms"]
    cells = [
        cell
        for name in names
        for cell in (f"def {name}():\n    'What it does.'\n    raise NotImplementedError", f"check({name})")
    ]
    assert read(tmp_path, notebook(*cells)) == ""


def test_the_labs_are_known_by_the_functions(tmp_path: Path) -> None:
    path = write(tmp_path / "any name.ipynb", notebook(SOLVED, "def throughput():\n    pass\ndef cache_bytes():\n    pass"))
    assert read_notebook(path).labs == {"00": 1, "01": 2}


def test_the_hash_is_of_the_notebook_and_the_files_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "00.ipynb", notebook(SOLVED))
    first = digest(path)
    write(tmp_path / "timestamp.txt", "2026-10-05 23:59:00 UTC")
    write(tmp_path / "01.ipynb", notebook(STUB))
    assert digest(path) == first
    write(tmp_path / "helper.py", "x = 1")
    second = digest(path)
    write(tmp_path / "helper.py", "x = 2")
    third = digest(path)
    write(path, notebook(HALF))
    assert len({first, second, third, digest(path)}) == 4


RECEIPTS = {
    "2026-10-05 23:59:00.123456 UTC": datetime(2026, 10, 5, 23, 59, 0, 123456, UTC),
    "2026-10-05T23:59:00+02:00\n": datetime(2026, 10, 5, 21, 59, tzinfo=UTC),
    "2026-10-05 23:59:00": None,
    "soon": None,
    "x" * 2000: None,
}


@pytest.mark.parametrize("text", RECEIPTS, ids=range(len(RECEIPTS)))
def test_the_time_is_the_receipt_or_the_time_of_the_file(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "00.ipynb", notebook(SOLVED))
    os.utime(path, (0, 1_800_000_000))
    write(tmp_path / "timestamp.txt", text)
    expected = RECEIPTS[text]
    time, source, _ = time_of(path)
    assert (time, source) == (
        (expected, "timestamp.txt") if expected else (datetime.fromtimestamp(1_800_000_000, UTC), "file time")
    )


def test_a_notebook_has_few_short_notes(tmp_path: Path) -> None:
    reading = read_notebook(write(tmp_path / "00.ipynb", notebook(*["def broken(:"] * 300, *[SOLVED] * 300)))
    assert len(reading.notes) == MOST_NOTES + 1
    assert reading.notes[-1].startswith("There are 28")
    assert max(map(len, reading.notes)) <= MOST_NOTE


@pytest.mark.parametrize("seconds", [2**40, 2**62])
def test_a_time_out_of_range_is_a_problem_of_its_own_notebook(seconds: int, tmp_path: Path) -> None:
    path = write(tmp_path / "00.ipynb", notebook(SOLVED))
    try:
        os.utime(path, (0, seconds))
    except OverflowError:
        pytest.skip("not measured here: this file system refuses such a time")
    reading, _ = list(answers(ReadTask(path)))
    assert isinstance(reading, Reading)
    assert reading.labs == {"00": 1} or "cannot be read" in reading.problem


def test_reading_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    read(tmp_path, notebook(f"open({str(mark)!r}, 'w')", f"{HEAD}pass"))
    assert not mark.exists()
