"""One exercise is reset to its stub, in a notebook's file or in a kernel. All other code, and the old text, are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest
from labkit.exercises.registry import all_exercises, of_lab
from labkit.exercises.registry import exercise as find
from labkit.exercises.titles import LAB_TITLES
from labkit.grading.notebook_file import read_cells
from labkit.grading.reset import reset, reset_in_file
from labkit.grading.stub_text import defining_cells
from labkit.grading.stubs import stub_of
from tests.refusals import refused

LABS = Path(__file__).parents[2] / "labs"
STUB = 'def f(x):\n    """Text."""\n    raise NotImplementedError("f")\n\n\n@jit\ndef kernel(x):\n    pass'
PART = STUB.split("\n\n\n")[0]
KERNEL = STUB.split("\n\n\n")[1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return tmp_path / "home"


def texts(path: Path) -> list[str]:
    return [cell.text for cell in read_cells(path)]


def write(path: Path, *cells: str, **more: Any) -> Path:
    """Write a notebook whose metadata has `STUB` as the stub of the exercise `kv_cache_bytes`, with f renamed to this name."""
    stub = STUB.replace("f(", "kv_cache_bytes(").replace('"f"', '"kv_cache_bytes"')
    rows = [{"cell_type": "code", "source": cell, "outputs": [], "metadata": {}} for cell in cells]
    path.write_text(json.dumps({"cells": rows, "metadata": {"labkit": {"stubs": {"kv_cache_bytes": stub}}}} | more))
    return path


def after_reset(path: Path, *cells: str) -> list[str]:
    """The texts of these cells after a reset of f. In the file, f is renamed to the function of an exercise."""
    write(path, *(cell.replace("f(", "kv_cache_bytes(").replace("f =", "kv_cache_bytes =") for cell in cells))
    reset_in_file(path, find("kv_cache_bytes"))
    return [text.replace("kv_cache_bytes", "f") for text in texts(path)]


@pytest.mark.parametrize("lab", LAB_TITLES)
def test_every_exercise_of_a_lab_has_its_own_stub_in_the_learners_notebook(lab: str) -> None:
    path = next(LABS.glob(f"{lab}_*.ipynb"))
    content, cells = json.loads(path.read_text("utf-8")), read_cells(path)
    asked = {exercise.function for exercise in all_exercises()}
    for exercise in of_lab(lab):
        stub = stub_of(content, exercise.function)
        assert stub is not None
        (number,) = defining_cells(cells, exercise.function)
        assert cells[number - 1].text == stub
        assert {name for name in asked if f"def {name}(" in stub} == {exercise.function}


def test_a_solved_exercise_is_reset_in_the_file_and_nothing_else_changes(tmp_path: Path, home: Path) -> None:
    source = LABS / "02_fused_kernels.ipynb"
    path = tmp_path / "lab.ipynb"
    content = json.loads(source.read_text("utf-8"))
    before = texts(source)
    number = next(at for at, text in enumerate(before) if text.startswith("def fused_residual_layer_norm("))
    answer = (
        before[number]
        .replace("    raise NotImplementedError", "    norm_kernel[(1,)]  # é\n    # raise")
        .replace("pass", "x = 1")
    )
    assert answer.count("x = 1") == 1
    content["cells"][number]["source"] = f"# my notes\nHELPER = 3\n{answer}\n\n\ndef my_helper():\n    return HELPER"
    content["cells"][number]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["kept"]}]
    path.write_text(json.dumps(content), "utf-8")
    path.chmod(0o600)
    done = reset_in_file(path, find("fused_residual_layer_norm"))
    after = texts(path)
    assert done.cells == [number + 1]
    assert after[number] == f"# my notes\nHELPER = 3\n{before[number]}\n\n\ndef my_helper():\n    return HELPER"
    assert after[:number] + after[number + 1 :] == before[:number] + before[number + 1 :]
    saved = json.loads(path.read_text("utf-8"))
    assert saved["cells"][number]["outputs"] == content["cells"][number]["outputs"]
    assert saved["metadata"] == content["metadata"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert done.kept is not None
    assert done.kept.parent.parent == home
    assert done.kept.read_text("utf-8") == f"# cell {number + 1} of lab.ipynb\n# my notes\nHELPER = 3\n{answer}" + (
        "\n\n\ndef my_helper():\n    return HELPER\n"
    )
    assert reset_in_file(path, find("fused_residual_layer_norm")).kept is None


def test_the_last_definition_counts_and_a_missing_helper_is_added(tmp_path: Path) -> None:
    first = "def f(x):\n    return 1"
    found = after_reset(tmp_path / "lab.ipynb", first, "%time y = 2\n@cache\ndef f(x):\n    return 2\nz = f(1)")
    assert found == [first, f"%time y = 2\n{PART}\nz = f(1)\n\n\n{KERNEL}"]


def test_function_and_helper_in_two_cells_go_back_in_their_places(tmp_path: Path) -> None:
    found = after_reset(tmp_path / "lab.ipynb", "def kernel(x):\n    return 7\n# end", "f = lambda x: 7\ny = 1")
    assert found == [f"{KERNEL}\n# end", f"{PART}\ny = 1"]


def test_a_cell_with_a_syntax_error_is_replaced_as_a_whole(tmp_path: Path) -> None:
    broken = "def f(x):\n    return (1\n\ny = 5"
    assert after_reset(tmp_path / "lab.ipynb", "def f(x):\n    return 1", broken) == ["def f(x):\n    return 1", STUB]
    kept = list((tmp_path / "home" / "old_answers").iterdir())
    assert [broken in path.read_text().replace("kv_cache_bytes", "f") for path in kept] == [True]


def test_what_cannot_be_reset_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    path, name = tmp_path / "lab.ipynb", find("kv_cache_bytes")
    for cells, words in [
        (["def kv_cache_bytes(x):\n    return (1\n\ndef other():\n    pass"], ["cell 1 is not valid Python", "defines other"]),
        (["x = 1"], ["no code cell defines kv_cache_bytes", 'reset("kv_cache_bytes") shows the stub']),
    ]:
        before = write(path, *cells).read_bytes()
        with refused(words):
            reset_in_file(path, name)
        assert path.read_bytes() == before
    write(path, "def kv_cache_bytes(x): pass", metadata={})
    with refused(["does not contain the stub of kv_cache_bytes", "lab 00"]):
        reset_in_file(path, name)
    sheet = {"cells": [{"cell_type": "code", "input": "def kv_cache_bytes(x): pass"}]}
    path.write_text(json.dumps({"worksheets": [sheet]}))
    with refused(["has an old format"]):
        reset_in_file(path, name)
    assert not (tmp_path / "home" / "old_answers").exists()


def test_old_texts_of_the_same_second_are_all_kept(tmp_path: Path) -> None:
    for number in range(3):
        after_reset(tmp_path / "lab.ipynb", f"def f(x):\n    return {number}")
    kept = [path.read_text() for path in (tmp_path / "home" / "old_answers").iterdir()]
    assert sorted(text.split("return ")[1] for text in kept) == ["0\n", "1\n", "2\n"]


def test_in_a_kernel_the_stub_comes_in_a_new_cell_and_no_cell_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="not measured here: no ipykernel")
    from nbformat import v4

    from labkit.grading.notebook_kernel import run_cells

    path = write(tmp_path / "lab.ipynb", "def kv_cache_bytes(x):\n    return 5")
    before = path.read_bytes()
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    notebook = v4.new_notebook(cells=[v4.new_code_cell("from labkit.lab import reset\nreset('kv_cache_bytes')")])
    replies: list[Any] = []

    def keep_reply(cell: Any, cell_index: int, execute_reply: Any) -> None:
        replies.append(execute_reply["content"])

    run_cells(notebook, tmp_path, timeout=1200, kernel_name="python3", on_cell_executed=keep_reply)
    stub = stub_of(json.loads(before), "kv_cache_bytes")
    assert replies[0]["payload"] == [{"source": "set_next_input", "text": stub, "replace": False}]
    said = notebook.cells[0].outputs[0].text
    assert f"new cell below this one:\n\n{stub}\n" in said
    (kept,) = (tmp_path / "home" / "old_answers").iterdir()
    assert f"Your old text, as it was last saved in the notebook, is also in {kept}." in said
    assert "return 5" in kept.read_text()
    assert path.read_bytes() == before


def test_without_a_kernel_the_stub_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "lab.ipynb", "x = 1")
    reset("kv_cache_bytes", path)
    said = capsys.readouterr().out
    assert "def kv_cache_bytes(x):" in said
    assert "old text" not in said
    with pytest.raises(InvalidRequest, match="is not known here; give its path"):
        reset("kv_cache_bytes")
    with pytest.raises(InvalidRequest, match="no exercise asks for"):
        reset("nothing", path)
