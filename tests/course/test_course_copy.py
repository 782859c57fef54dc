"""The real wheel of a course and a labkit installed from it, without the CPU kernels, which take a minute to compile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from labkit.cli import COMMANDS
from labkit.course import wheel
from labkit.course.build import LeakFound, build_course
from labkit.errors import LabkitError
from tests.cli.test_commands import MANY
from tests.patience import PATIENCE

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
NO_COMPILER = {"CXX": shutil.which("false") or "false"}
IMPORT_ALL = """
import importlib, json, pkgutil, labkit
found = {}
for module in pkgutil.walk_packages(labkit.__path__, "labkit."):
    if module.name != "labkit.__main__":
        try:
            importlib.import_module(module.name)
            found[module.name] = ""
        except ImportError as error:
            found[module.name] = str(error)
print(json.dumps({"file": labkit.__file__, "modules": found}))
"""
IN_A_NOTEBOOK = """
from labkit.lab import check, hint, progress_panel
def kv_cache_bytes(config, lengths, element_bytes):
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes
def roofline_time(*args):
    return 5
check(kv_cache_bytes)
check(roofline_time)
hint("gpus_needed")
progress_panel("00")
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of lab 00, built by the command."""
    folder = tmp_path_factory.mktemp("released") / "course"
    command = [sys.executable, "-m", "labkit", "release", "--course", "--out", str(folder), "--lab", "00", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | NO_COMPILER, capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["out"] == str(folder)
    assert (said["labs"], said["cpu_kernels"], said["answer_sheet"]["exercises"]) == (["00"], False, 6)
    assert "The wheel has no CPU kernels" in done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel_file(out: Path) -> Path:
    (found,) = (out / "labkit-course/packages").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment, with the labkit of the wheel and all other packages of this environment."""
    folder = tmp_path_factory.mktemp("learner")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    with zipfile.ZipFile(wheel_file) as archive:
        archive.extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def run(python: Path, *arguments: str, home: Path, status: int = 0) -> tuple[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments],
        env=kept | {"LABKIT_HOME": str(home), "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


# The wheel --------------------------------------------------------------------------------------------------------------
def test_the_wheel_has_everything_but_the_answers(wheel_file: Path) -> None:
    with zipfile.ZipFile(wheel_file) as archive:
        names = set(archive.namelist())
        record = archive.read("labkit-0.1.0.dist-info/RECORD").decode()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "labkit").rglob("*.py")}
    missing = modules - names
    assert missing
    assert all(name.startswith(("labkit/answers/", "labkit/exercises/stubs/own_stages/")) for name in missing)
    assert {"labkit/answer_sheet/sheet.json", "labkit/answer_sheet/values.safetensors", "labkit/py.typed"} <= names
    assert "labkit/builtin/gptj-tiny/model.safetensors" in names
    assert not [word for word in ("labkit/answers/", "own_stages") if word in record]


def test_answers_that_get_into_a_real_wheel_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One build has a leak of each kind: a folder that was not left out, a data file, and a copied reference solution."""
    real = wheel.copy_sources

    def copy_and_plant(root: Path, work: Path, *, readme: str, sheet: Path | None) -> None:
        monkeypatch.setattr(wheel, "HIDDEN", ("answers",))
        real(root, work, readme=readme, sheet=sheet)
        answers = (root / "labkit/answers/lab02/capture.py").read_text()
        begin, end = answers.index("def step_seconds"), answers.index("def _eager")
        copied = answers[begin:end].replace("step_seconds", "elapsed").replace("kernel_seconds", "parts").replace("done", "now")
        (work / "labkit/ops/elapsed.py").write_text(f"from __future__ import annotations\n\n\n{copied}")
        shutil.copyfile(root / "labkit/answers/lab00.py", work / "labkit/builtin/gptj-tiny/notes.txt")

    monkeypatch.setattr(wheel, "copy_sources", copy_and_plant)
    for name, value in NO_COMPILER.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LeakFound) as caught:
        build_course(ROOT, tmp_path / "out", "", labs=["00"], with_sheet=False)
    said = str(caught.value)
    inside = "labkit-course.zip > labkit-course/packages/"
    for place, what in (
        ("labkit/exercises/stubs/own_stages/__init__.py", "a file from a folder with answers"),
        ("labkit-0.1.0.dist-info/RECORD:", "names a file from a folder with answers"),
        ("labkit/ops/elapsed.py:", "the body of a function of labkit/answers/lab02/capture.py:"),
        ("labkit/builtin/gptj-tiny/notes.txt:", "labkit/answers/lab00.py:"),
    ):
        assert any(inside in line and place in line and what in line for line in said.splitlines()), (place, said)
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = wheel.copy_sources

    def copy_and_break(root: Path, work: Path, *, readme: str, sheet: Path | None) -> None:
        real(root, work, readme=readme, sheet=sheet)
        (work / "setup.py").write_text("raise SystemExit('the compiler is on holiday')\n")

    monkeypatch.setattr(wheel, "copy_sources", copy_and_break)
    with pytest.raises(LabkitError, match=r"(?s)the wheel could not be built:.*the compiler is on holiday"):
        build_course(ROOT, tmp_path / "out", "", labs=["00"], with_sheet=False)
    assert list(tmp_path.iterdir()) == []


# The installed copy -----------------------------------------------------------------------------------------------------
def test_every_module_can_be_imported(python: Path, tmp_path: Path) -> None:
    found = json.loads(run(python, "-c", IMPORT_ALL, home=tmp_path)[0].splitlines()[-1])
    assert found["file"].startswith(str(python.parents[1]))
    assert len(found["modules"]) > 450
    assert not [name for name in found["modules"] if name.startswith("labkit.answers")]
    assert {name: why for name, why in found["modules"].items() if why and "triton_python_backend_utils" not in why} == {}


def many(python: Path, home: Path, *commands: list[str]) -> list[Any]:
    return list(json.loads(run(python, "-c", MANY, json.dumps(commands), home=home)[0].splitlines()[-1]))


def test_every_command_has_help_and_the_copy_says_what_it_is(python: Path, tmp_path: Path) -> None:
    (tmp_path / "submissions" / "ada").mkdir(parents=True)
    helps = [[name, "--help"] for name in COMMANDS]
    *shown, doctor, grade, release, text = many(
        python,
        tmp_path,
        *helps,
        ["doctor", "--json"],
        ["grade", str(tmp_path / "submissions"), "--out", str(tmp_path / "grades")],
        ["release", "--course", "--out", str(tmp_path / "course")],
        ["generate", "In the beginning", "--max-new-tokens", "4", "--device", "cpu"],
    )
    assert [row[0] for row in shown] == [0] * len(COMMANDS)
    report = json.loads(doctor[1].splitlines()[-1])
    assert (report["answers"]["kind"], report["answers"]["exercises"]) == ("sheet", 6)
    assert "a course copy without references" in doctor[1]
    assert len(report["labs"]) > 1
    assert [lab["lab"] for lab in report["labs"] if not lab["not_measured_here"]] == ["00"]
    for row, what in ((grade, "grade a class"), (release, "release a course")):
        assert row[0] == 1
        assert f"this copy of labkit has no answers, so it cannot {what}" in row[2]
    assert text[0] == 0
    assert text[1].strip()
    assert not (tmp_path / "grades").exists()


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The solved notebook of lab 00 with a wrong function (0.3) and a stub (0.4)."""
    text = (ROOT / "solutions/00_class_environment.ipynb").read_text()
    path = tmp_path_factory.mktemp("notebook") / "00.ipynb"
    text = text.replace("return 2 * config.num_layers", "return 16 * config.num_layers")
    path.write_text(text.replace('"    return gpus"', '"    raise NotImplementedError"'))
    return path


def test_a_notebook_is_checked_by_the_sheet(python: Path, notebook: Path, tmp_path: Path) -> None:
    said, _ = run(python, "-m", "labkit", "check", str(notebook), "--json", home=tmp_path, status=1)
    assert json.loads(said.splitlines()[-1])["points"] == 45
    assert said.count(" inputs agree with the answer sheet.") == 4 + 4  # in words, and in JSON
    assert "0.3 The size of the cache: failed, 0/10 points. The value is not right: it is 8 times the right value." in said
    assert "0.4 How many GPUs?: not attempted, 0/10 points." in said


def test_a_learner_works_in_a_notebook(python: Path, tmp_path: Path) -> None:
    said, _ = run(python, "-c", IN_A_NOTEBOOK, home=tmp_path)
    assert "✓ 0.3 The size of the cache: passed, 10/10 points. 15 inputs agree with the answer sheet." in said
    assert "✗ 0.5 Memory or compute?: failed" in said
    assert "Hint 1 of 3 for 0.4" in said
    assert "Lab 00: 10 of 65 points" in said


def test_without_the_sheet_the_grader_decides(python: Path, notebook: Path, tmp_path: Path) -> None:
    (folder,) = (python.parents[1] / "lib").glob("python*/site-packages/labkit/answer_sheet")
    folder.rename(folder.with_name("elsewhere"))
    try:
        said, _ = run(python, "-m", "labkit", "check", str(notebook), home=tmp_path)
    finally:
        folder.with_name("elsewhere").rename(folder)
    assert said.count(": not measured here, 0/") == 5
    assert said.count("This copy of labkit has no answer to this exercise. The instructor's grader decides.") == 5
    assert said.count(": not attempted, 0/") == 1
