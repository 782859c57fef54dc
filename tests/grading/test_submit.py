"""`submit()` in a real kernel: for a saved notebook it makes a copy and a receipt; it refuses a notebook with unsaved
functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from labkit import __version__
from labkit.errors import InvalidRequest
from labkit.grading import submit
from labkit.grading.progress import Progress
from labkit.grading.same_as_run import same_as_run
from labkit.grading.submission import submission_of

pytest.importorskip("ipykernel", reason="not measured here: no ipykernel")

SET_UP = "from labkit.lab import check, submit"
SCALE = "def scaled(count, factor=2):\n    # a helper\n    return factor * count"
RIGHT = (
    "def kv_cache_bytes(config, lengths, element_bytes):\n"
    "    return scaled(config.num_layers * config.hidden_size * sum(lengths) * element_bytes)"
)
STUB = 'def weight_gib(parameters, precision, group_size):\n    """GiB."""\n    raise NotImplementedError("weight_gib")'
LOST = 'def kv_cache_bytes(config, lengths, element_bytes):\n    raise NotImplementedError("kv_cache_bytes")'
CHECK = "check(kv_cache_bytes)"
FILE = [SET_UP, SCALE, RIGHT, CHECK, STUB]


def write(path: Path, cells: list[str]) -> Path:
    from nbformat import v4

    stubs = {"weight_gib": STUB, "kv_cache_bytes": LOST}
    about = {"labkit": {"stubs": stubs}}
    path.write_text(json.dumps(v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells], metadata=about)))
    return path


def said(notebook: Any) -> list[str]:
    """The output that each cell printed."""
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]


Run = Callable[..., list[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs cells in a kernel that Jupyter started for `lab.ipynb`, and returns what each cell printed."""
    from nbformat import v4

    from labkit.grading.notebook_kernel import run_cells

    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "lab.ipynb"))

    def run(*cells: str) -> list[str]:
        notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
        run_cells(notebook, tmp_path, timeout=1200, kernel_name="python3")
        return said(notebook)

    return run


def test_a_saved_notebook_gives_a_copy_and_a_receipt_and_keeps_older_ones(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "lab.ipynb", ["# another remark", *FILE])
    output = run(*FILE, "submit()", "submit()")
    assert "lab.ipynb is ready to hand in: your checks reached 10 of 65 points." in output[-1]
    assert "On the core path: 10 of 55 points." in output[-1]
    assert "Not compared" not in output[-1]
    first, second = (Path(text.split("Keep this receipt: ")[1].split(" (hash")[0]) for text in output[-2:])
    assert first != second
    for receipt_path in (first, second):
        copy = receipt_path.parent / "lab.ipynb"
        assert copy.read_bytes() == file.read_bytes()
        receipt = json.loads(receipt_path.read_text("utf-8"))
        assert receipt["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()
        assert (receipt["points"], receipt["out_of"], receipt["labkit"]) == (10, 65, __version__)
        assert (receipt["core_points"], receipt["core_out_of"]) == (10, 55)
        assert {row["track"] for row in receipt["exercises"]} == {"core", "extra"}
        assert datetime.fromisoformat(receipt["time"]).tzinfo == UTC
        rows = {row["exercise"].split(".")[1]: row for row in receipt["exercises"]}
        solved, stub = rows["kv_cache_bytes"], rows["weight_gib"]
        assert (solved["verdict"], solved["points"], solved["has_an_answer"]) == ("passed", 10, True)
        assert (stub["verdict"], stub["points"], stub["has_an_answer"]) == ("not attempted", 0, False)
        assert solved["is_what_was_run"]
    assert f"Hand in this copy: {second.parent / 'lab.ipynb'}" in output[-1]


@pytest.mark.long
def test_functions_that_are_not_saved_are_named(run: Run, tmp_path: Path) -> None:
    """In the file, a helper lacks its new default value, and a second function is missing; the message names both."""
    write(tmp_path / "lab.ipynb", FILE[:-1])
    output = run(SET_UP, SCALE.replace("factor=2", "factor=1"), RIGHT, STUB, "submit()")
    assert output[-1].startswith(
        "Nothing was written: the file lab.ipynb does not have the code that you ran: scaled, weight_gib. "
        "Run the cells of these functions, save the notebook (Ctrl+S), then run submit() again."
    )
    assert not (tmp_path / "submitted").exists()


@pytest.mark.long
def test_after_a_restart_it_says_what_was_not_compared_and_what_is_gone(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "lab.ipynb", FILE)
    run(SET_UP, SCALE, RIGHT, CHECK)
    output = run(SET_UP, "submit()")
    assert "because this kernel has not run their code: kv_cache_bytes. Is the notebook saved?" in output[-1]
    write(tmp_path / "lab.ipynb", [*FILE, f"{LOST}  # not saved"])
    output = run(SET_UP, "submit()")
    assert "Passed before, but the file has no answer now: kv_cache_bytes. Is the notebook saved?" in output[-1]


@pytest.mark.long
def test_a_decorated_function_and_a_lambda_are_compared(run: Run, tmp_path: Path) -> None:
    cached = "import functools\n@functools.cache\ndef scaled(count):\n    return 2 * count"
    short = "kv_cache_bytes = lambda config, lengths, size: scaled(sum(lengths))"
    write(tmp_path / "lab.ipynb", [cached, short])
    output = run(SET_UP, cached, short, "submit()", cached.replace("2 *", "3 *"), short.replace("sum", "max"), "submit()")
    assert "is ready to hand in" in output[3]
    assert "Not compared" not in output[3]
    assert "the code that you ran: kv_cache_bytes, scaled." in output[-1]


def test_without_a_file_it_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with pytest.raises(InvalidRequest, match=r'is not known here; give its path, for example submit\("'):
        submit()
    with pytest.raises(InvalidRequest, match=r"gone\.ipynb cannot be read: there is no such file"):
        submit(tmp_path / "gone.ipynb")
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "renamed.ipynb"))
    with pytest.raises(InvalidRequest, match="was renamed or moved"):
        submit()


def test_a_notebook_that_is_checked_from_outside_submits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "is_kept", False)
    submit(write(tmp_path / "lab.ipynb", FILE))
    assert [path.name for path in tmp_path.iterdir()] == ["lab.ipynb"]


@pytest.mark.parametrize(
    ("body", "used"),
    [("config.depth", {"size"}), ("[depth(one) for one in config]", {"size", "depth"})],
    ids=["attribute", "call"],
)
def test_an_attribute_with_the_name_of_a_function_is_no_call(body: str, used: set[str]) -> None:
    names: dict[str, Any] = {}
    exec(f"def depth(one): return 1\ndef size(config): return {body}", names)
    assert set(same_as_run(submission_of(f"def size(config): return {body}"), "size", names)) == used
