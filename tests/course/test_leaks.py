"""Answers are planted in a release: the check finds each of them and names its place.

The check does not report texts that may be released.
"""

from __future__ import annotations

import ast
import base64
import builtins
import html
import json
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.course.leaks.forbidden import LEAST_BODY, Forbidden, forbidden_in, hidden_files
from labkit.course.leaks.leak_check import Leak, find_leaks
from labkit.course.leaks.normal_code import bodies, size
from labkit.exercises.registry import all_exercises
from labkit.grading.find_answer import answer_to
from labkit.grading.lab_notebooks import solved_notebook, student_notebook

ROOT = Path(__file__).parents[2]
SOURCES = {path.stem[:2]: path for path in sorted((ROOT / "solutions").glob("*.py"))}
WHEEL = "labkit-0.1.0-py3-none-any.whl"


@pytest.fixture(scope="module")
def forbidden() -> Forbidden:
    return forbidden_in(ROOT)


def a_zip(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def leaks_in(tmp_path: Path, forbidden: Forbidden, files: dict[str, str | bytes]) -> list[Leak]:
    return find_leaks(a_zip(tmp_path / "course.zip", files), forbidden)


def places(leaks: list[Leak]) -> set[str]:
    return {f"{leak.file}{leak.where}".removeprefix("course.zip > ") for leak in leaks}


class Renamed(ast.NodeTransformer):
    """Renames every variable and every function."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return node if hasattr(builtins, node.id) else ast.Name(f"{node.id}_", node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(f"{node.arg}_")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.name += "_"
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        self.generic_visit(node)
        node.name = node.name and f"{node.name}_"
        return node


def functions_of(path: Path) -> list[ast.FunctionDef]:
    """The functions of a module that are large enough to count as answers."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return [node for node in found if sum(map(size, next(iter(bodies(node))))) >= LEAST_BODY]


# Code in modules --------------------------------------------------------------------------------------------------------
def test_every_reference_and_mistake_is_found_under_other_names(tmp_path: Path, forbidden: Forbidden) -> None:
    planted: dict[str, str | bytes] = {}
    for path in hidden_files(ROOT):
        for number, function in enumerate(functions_of(path)):
            code = ast.unparse(ast.fix_missing_locations(Renamed().visit(function)))
            planted[f"labkit/ops/{path.parent.name}_{path.stem}_{number}.py"] = (
                f'"""An operation."""\n\nimport torch\n\n\n{code}\n'
            )
    assert len(planted) > 120
    leaks = leaks_in(tmp_path, forbidden, planted)
    assert {place.partition(":")[0] for place in places(leaks)} == set(planted)


def test_a_leak_names_both_places(tmp_path: Path, forbidden: Forbidden) -> None:
    path = ROOT / "labkit/answers/lab00.py"
    (function,) = [one for one in functions_of(path) if one.name == "roofline_time"]
    code = f"import torch\n\n\n{ast.unparse(Renamed().visit(function))}\n"
    inner = a_zip(tmp_path / WHEEL, {"labkit/ops/bound.py": code}).read_bytes()
    (leak,) = leaks_in(tmp_path, forbidden, {f"labkit-course/packages/{WHEEL}": inner})
    source, line = leak.source.split(":")
    assert source == "labkit/answers/lab00.py"
    assert "compute, memory = " in path.read_text().splitlines()[int(line) - 1]
    assert str(leak) == (
        f"course.zip > labkit-course/packages/{WHEEL} > labkit/ops/bound.py:6: the body of a function of {leak.source}"
    )


def test_a_part_of_an_answer_in_another_function_is_found(tmp_path: Path, forbidden: Forbidden) -> None:
    (function,) = [one for one in functions_of(ROOT / "labkit/answers/lab04/streaming.py") if one.name == "_stream"]
    inner = "\n".join(f"    {line}" for line in ast.unparse(function.body[-1]).splitlines())
    leaks = leaks_in(
        tmp_path,
        forbidden,
        {"labkit/tools.py": f"def tool(client, answers, stops):\n    print('!')\n{inner}\n    print('.')\n"},
    )
    assert any(leak.source.startswith("labkit/answers/lab04/streaming.py") for leak in leaks)


def test_small_code_is_no_answer(tmp_path: Path, forbidden: Forbidden) -> None:
    code = "def f(x):\n    return x + 1\n\n\ndef g(a, b):\n    return max(a, b) if a else b\n\n\nh = lambda *args: f(*args)\n"
    assert leaks_in(tmp_path, forbidden, {"labkit/small.py": code}) == []


def test_the_sentence_of_each_mistake_is_found(tmp_path: Path, forbidden: Forbidden) -> None:
    sentences = [mistake.message for exercise in all_exercises() for mistake in answer_to(exercise).mistakes]
    long = [sentence for sentence in sentences if len("".join(sentence.split())) >= 40]
    assert len(long) > 0.8 * len(sentences)
    planted = {f"labkit/texts/{number}.py": f"WORDS = (\n    {sentence!r}\n)\n" for number, sentence in enumerate(long)}
    leaks = leaks_in(tmp_path, forbidden, dict(planted))
    assert places(leaks) == {f"{name}:2" for name in planted}
    assert {leak.what for leak in leaks} == {"a text of the answer"}


# Notebooks and texts ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lab", SOURCES)
def test_a_learners_notebook_has_no_answer(lab: str, tmp_path: Path, forbidden: Forbidden) -> None:
    student = nbformat.writes(student_notebook(SOURCES[lab].read_text()))
    assert leaks_in(tmp_path, forbidden, {"labs/lab.ipynb": student}) == []


@pytest.mark.parametrize("lab", SOURCES)
def test_each_solved_cell_in_a_learners_notebook_is_found(lab: str, tmp_path: Path, forbidden: Forbidden) -> None:
    source = SOURCES[lab].read_text()
    student, solved = student_notebook(source), solved_notebook(source)
    given = {cell.source for cell in student.cells}
    answers = [cell for cell in solved.cells if cell.source not in given]
    assert len(answers) >= 6
    count = len(student.cells)
    student.cells += answers
    leaks = leaks_in(tmp_path, forbidden, {"labs/lab.ipynb": nbformat.writes(student)})
    wanted = {f"labs/lab.ipynb, cell {count + number}" for number in range(1, len(answers) + 1)}
    assert {place.rpartition(", line")[0] for place in places(leaks)} == wanted


SOLUTION = "bits = {'fp32': 32, 'fp16': 16, 'bf16': 16, 'int8': 8, 'int4': 4 + 16 / group_size}[precision]".replace("'", '"')
PRINTED = f"The answer:\n    {SOLUTION}\n    return parameters * bits / 8 / 2**30"
RENAMED = PRINTED.removeprefix("The answer:\n").replace("bits", "b").replace("parameters", "p")


def a_notebook(cell: dict[str, Any]) -> str:
    cells = [{"cell_type": "markdown", "source": ["# A lab\n"]}, {"cell_type": "code", "source": "", "outputs": []} | cell]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def printed(**data: Any) -> list[dict[str, Any]]:
    return [{"output_type": "stream", "text": "a\n"}, {"output_type": "display_data", "data": data}]


PLANTED_CELLS = {
    "stream": (
        {"outputs": [{"output_type": "stream", "name": "stdout", "text": PRINTED.splitlines(True)}]},
        "cell 2, output 1, line 2",
    ),
    "html": ({"outputs": printed(**{"text/html": f"<pre><b>{html.escape(PRINTED)}</b></pre>"})}, "cell 2, output 2, line 2"),
    "error": ({"outputs": [{"output_type": "error", "traceback": ["a", PRINTED]}]}, "cell 2, output 1, line 3"),
    "attachment": (
        {"cell_type": "markdown", "attachments": {"a.txt": {"text/plain": base64.b64encode(PRINTED.encode()).decode()}}},
        "cell 2, attachment a.txt, line 2",
    ),
    "metadata": ({"metadata": {"note": PRINTED}}, "cell 2, line 2"),
    "a comment": ({"source": "x = 1\n" + "\n".join(f"## {line}" for line in PRINTED.splitlines())}, "cell 2, line 3"),
    "other names in a block": ({"cell_type": "markdown", "source": f"Look:\n\n```python\n{RENAMED}\n```\n"}, "cell 2, line 4"),
}


@pytest.mark.parametrize("name", PLANTED_CELLS)
def test_a_solution_in_any_part_of_a_notebook_is_found(name: str, tmp_path: Path, forbidden: Forbidden) -> None:
    cell, where = PLANTED_CELLS[name]
    leaks = leaks_in(tmp_path, forbidden, {"labs/00.ipynb": a_notebook(cell)})
    assert f"labs/00.ipynb, {where}" in places(leaks)
    assert any(leak.source.startswith("solutions/00_class_environment.py") or "lab00" in leak.source for leak in leaks)


def test_a_guess_of_the_author_is_found(tmp_path: Path, forbidden: Forbidden) -> None:
    (leak,) = leaks_in(tmp_path, forbidden, {"labs/00.ipynb": a_notebook({"source": "guess_decode_ms = 4  # my guess"})})
    assert str(leak).startswith("course.zip > labs/00.ipynb, cell 2, line 1: the solution of solutions/00")
    assert leaks_in(tmp_path, forbidden, {"labs/00.ipynb": a_notebook({"source": "guess_decode_ms = 44"})}) == []


def test_a_sentence_is_found_in_the_line_where_it_begins(tmp_path: Path, forbidden: Forbidden) -> None:
    message = (
        "You cut all prompts to the length of the shortest: make the array as wide as the longest prompt, and pad the others."
    )
    text = f"# Notes\n\nSee: {message[:50]}\n{message[50:]}\n"
    (leak,) = leaks_in(tmp_path, forbidden, {"notes.md": text})
    assert str(leak).startswith("course.zip > notes.md:3: a text of the answer of labkit/answers/lab04/prompts.py:")


def test_a_solution_in_a_text_is_found(tmp_path: Path, forbidden: Forbidden) -> None:
    leaks = leaks_in(tmp_path, forbidden, {"README.md": f"# Read me\n\n{PRINTED}\n"})
    assert "README.md:4" in places(leaks)


# Files ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "labkit/answers/lab00.py",
        "labkit/answers/README.md",
        "labkit/__pycache__/answers.cpython-311.pyc",
        "labkit/answers/__pycache__/lab00.cpython-311.pyc",
        "labkit/exercises/stubs/own_stages/__init__.py",
        "labkit/exercises/stubs/__pycache__/own_stages.cpython-311.pyc",
        "labkit/exercises/stubs/own_stages.py",
        "labkit_course.data/purelib/labkit/answers/lab01.py",
    ],
)
def test_a_file_of_a_folder_with_answers_is_found(name: str, tmp_path: Path, forbidden: Forbidden) -> None:
    inner = a_zip(tmp_path / WHEEL, {name: "", "labkit/__init__.py": ""}).read_bytes()
    (leak,) = leaks_in(tmp_path, forbidden, {f"packages/{WHEEL}": inner})
    assert leak == Leak(f"course.zip > packages/{WHEEL} > {name}", "", "a file from a folder with answers")


@pytest.mark.parametrize("name", ["labkit-0.1.0.dist-info/RECORD", "labkit.egg-info/SOURCES.txt"])
def test_a_list_that_names_such_a_file_is_found(name: str, tmp_path: Path, forbidden: Forbidden) -> None:
    lines = "labkit/__init__.py,a,1\nlabkit/grading/answer_sheet.py,,\nlabkit/exercises/stubs/own_stages/__init__.py,b,2\n"
    assert places(leaks_in(tmp_path, forbidden, {name: lines})) == {f"{name}:3"}


def test_what_nobody_can_search_is_refused(tmp_path: Path, forbidden: Forbidden) -> None:
    picture = {"outputs": printed(**{"image/png": "iVBORw0KGgo="})}
    files: dict[str, str | bytes] = {
        "labkit/ops/__pycache__/gelu.cpython-311.pyc": b"\xa7\r\r\n\0\0",
        "labs/00.ipynb": a_notebook(picture),
        "labs/01.ipynb": "{}",
        "labs/02.ipynb": "no JSON",
        "labkit/native/_native.so": b"\x7fELF\0",
        "labkit/builtin/curve.png": b"\x89PNG\0",
    }
    leaks = leaks_in(tmp_path, forbidden, files)
    found = {f"{leak.file}{leak.where}".removeprefix("course.zip > "): leak.what for leak in leaks}
    assert set(found) == {
        "labkit/ops/__pycache__/gelu.cpython-311.pyc",
        "labs/00.ipynb, cell 2",
        "labs/01.ipynb",
        "labs/02.ipynb",
    }
    assert "cannot be searched" in found["labkit/ops/__pycache__/gelu.cpython-311.pyc"]
    assert "a picture" in found["labs/00.ipynb, cell 2"]
    assert "cannot be read" in found["labs/01.ipynb"]


def test_what_the_library_may_have_is_no_leak(tmp_path: Path, forbidden: Forbidden) -> None:
    """The library itself computes some results that exercises ask for. The test uses the files that are most similar to
    answers.
    """
    near = ("ops/rotary_cache_write.py", "serving/python_backend/preprocessing.py", "serving/python_backend/word_lists.py")
    files = {f"labkit/{name}": (ROOT / "labkit" / name).read_text() for name in near}
    assert leaks_in(tmp_path, forbidden, dict(files)) == []


@pytest.mark.long
def test_the_library_has_no_answer_and_no_docs_have_one(tmp_path: Path, forbidden: Forbidden) -> None:
    hidden = set(hidden_files(ROOT))
    paths = [path for path in (ROOT / "labkit").rglob("*.py") if path not in hidden]
    paths += [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "labs").glob("*.ipynb")]
    files: dict[str, str | bytes] = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}
    assert list(map(str, leaks_in(tmp_path, forbidden, files))) == []
