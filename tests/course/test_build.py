"""A course is built with a small wheel instead of the real one: what the course contains, and when nothing is written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.course import build, wheel
from labkit.course.build import NAME, LeakFound, build_course
from labkit.course.contents import copy_contents
from labkit.course.leaks.forbidden import forbidden_in
from labkit.errors import InvalidRequest, LabkitError, NotAvailable
from labkit.exercises.registry import of_lab
from labkit.grading.lab_notebooks import solved_notebook

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "solutions/00_class_environment.py").read_text()


def small_wheel(root: Path, out: Path, work: Path, *, readme: str, sheet: Path | None) -> Path:
    """Replace `build_wheel`: make a wheel with few files."""
    path = out / "labkit-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        files = {"labkit/__init__.py": b"", "labkit-0.1.0.dist-info/METADATA": readme.encode()}
        files |= {f"labkit/answer_sheet/{file.name}": file.read_bytes() for file in sorted(sheet.iterdir())} if sheet else {}
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Build small wheels, and read the answers once for all tests."""
    forbidden = forbidden_in(ROOT)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(build, "build_wheel", small_wheel)
        patched.setattr(build, "forbidden_in", lambda root: forbidden)
        yield


def course(out: Path, **options: Any) -> build.Course:
    return build_course(ROOT, out, "checks of a test", **({"labs": ["00"], "with_sheet": False} | options))


def names_in(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


# The track --------------------------------------------------------------------------------------------------------------
def test_on_the_core_track_the_notebooks_have_no_extras(tmp_path: Path) -> None:
    made = course(tmp_path / "out", track="core")
    with zipfile.ZipFile(made.archive) as opened:
        text = opened.read(f"{NAME}/labs/00_class_environment.ipynb").decode()
        manifest = json.loads(opened.read(f"{NAME}/manifest.json"))
    defined = {exercise.function: f"def {exercise.function}(" in text for exercise in of_lab("00")}
    assert defined == {exercise.function: exercise.core for exercise in of_lab("00")}
    assert set(defined.values()) == {True, False}
    assert (made.track, manifest["track"]) == ("core", "core")


# What is built ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> build.Course:
    return course(tmp_path_factory.mktemp("course") / "out", with_sheet=True)


def test_the_folder_has_what_a_learner_needs(made: build.Course) -> None:
    files = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "LICENSE",
        "Makefile",
        "manifest.json",
        "environment/setup.sh",
        "environment/constraints.txt",
        "environment/jupyterlab_overrides.json",
        "environment/jupyterlab_page_config.json",
        "labs/00_class_environment.ipynb",
        "packages/labkit-0.1.0-py3-none-any.whl",
    }
    assert (made.folder / "labs/00_class_environment.ipynb").read_bytes() == (
        ROOT / "labs/00_class_environment.ipynb"
    ).read_bytes()
    readme = (made.folder / "README.md").read_text()
    assert "| [00](labs/00_class_environment.ipynb) | Class environment |" in readme
    assert "compares your values with an answer sheet" in readme.replace("\n", " ")
    assert "{{" not in readme
    assert {path.name for path in made.out.iterdir()} == {NAME, f"{NAME}.zip"}


def test_the_manifest_names_the_versions_and_every_file(made: build.Course) -> None:
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["checks"] == "checks of a test"
    assert manifest["labs"] == ["00"]
    assert manifest["answer_sheet"]["exercises"] == 6
    files = manifest["files"]
    assert set(files) == {
        path.relative_to(made.folder).as_posix()
        for path in made.folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert all(hashlib.sha256((made.folder / name).read_bytes()).hexdigest() == digest for name, digest in files.items())


def test_the_zip_file_is_the_folder(made: build.Course, tmp_path: Path) -> None:
    subprocess.run([shutil.which("unzip") or "unzip", "-q", str(made.archive), "-d", str(tmp_path)], check=True)
    for path in (path for path in made.folder.rglob("*") if path.is_file()):
        other = tmp_path / NAME / path.relative_to(made.folder)
        assert other.read_bytes() == path.read_bytes()
        assert os.access(other, os.X_OK) == os.access(path, os.X_OK) == (path.name == "setup.sh")


def test_equal_sources_make_equal_files(made: build.Course, tmp_path: Path) -> None:
    again = course(tmp_path / "again", with_sheet=True)
    assert json.loads((again.folder / "manifest.json").read_text()) == json.loads((made.folder / "manifest.json").read_text())


def test_a_sheet_only_of_the_released_labs(made: build.Course, tmp_path: Path) -> None:
    with zipfile.ZipFile(made.folder / "packages" / made.wheel) as opened:
        sheet = json.loads(opened.read("labkit/answer_sheet/sheet.json"))
    assert {name.split(".")[0] for name in sheet["exercises"]} == {"lab00"}
    without = course(tmp_path / "without", with_sheet=False)
    assert not [name for name in names_in(without.folder / "packages" / without.wheel) if "answer_sheet" in name]
    assert json.loads((without.folder / "manifest.json").read_text())["answer_sheet"] is None
    assert "This copy of labkit has no answers." in (without.folder / "README.md").read_text()


# When nothing is built --------------------------------------------------------------------------------------------------
def test_an_existing_folder_is_replaced_only_if_it_is_a_course(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = course(out)
    (first.folder / "old").touch()
    with pytest.raises(InvalidRequest, match="out exists; name another folder with --out, or replace it with --force"):
        course(out)
    assert (first.folder / "old").exists()
    course(out, force=True)
    assert not (first.folder / "old").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidRequest, match="is not a course that labkit has built"):
        course(mine, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "mine"}
    assert (mine / "thesis.txt").read_text() == "years of work"


def planted(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Make a build call `change` with the learner's folder after the files were copied to it."""

    def copy_and_change(root: Path, folder: Path, labs: Any, track: str) -> None:
        copy_contents(root, folder, labs, track)
        change(folder)

    monkeypatch.setattr(build, "copy_contents", copy_and_change)


def append_solved_cell(folder: Path) -> None:
    path = folder / "labs/00_class_environment.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [cell for cell in solved_notebook(SOURCE).cells if "gpus *= 2" in cell.source]
    path.write_text(nbformat.writes(notebook))


def test_a_course_with_an_answer_is_not_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = course(tmp_path / "out")
    before = kept.archive.read_bytes()
    planted(monkeypatch, append_solved_cell)
    with pytest.raises(LeakFound) as caught:
        course(tmp_path / "out", force=True)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("nothing was released, because learners would get answers (")
    assert any(
        line.startswith("  labkit-course.zip > labkit-course/labs/00_class_environment.ipynb, cell ")
        and ": the body of a function of labkit/answers/lab00.py:" in line
        for line in lines
    )
    assert kept.archive.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_notebooks_that_differ_from_their_sources_are_not_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "stale", lambda lab: [lab.student])
    with pytest.raises(InvalidRequest, match=r"labs/00_class_environment\.ipynb differ from solutions"):
        course(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [LabkitError("the wheel could not be built"), KeyboardInterrupt(), OSError("disk full")])
def test_nothing_half_built_is_left(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(build, "build_wheel", fail)
    with pytest.raises(type(error)):
        course(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_comes_back_if_the_new_course_cannot_be_put_there(tmp_path: Path) -> None:
    old = tmp_path / "out"
    old.mkdir()
    (old / "a").touch()
    with pytest.raises(FileNotFoundError):
        build._put(tmp_path / "gone", old, tmp_path / "aside")
    assert (old / "a").exists()


def test_wrong_folders_and_labs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="there is no track 'short'; the tracks are core and full"):
        course(tmp_path / "out", track="short")
    with pytest.raises(InvalidRequest, match="there is no lab '77'"):
        course(tmp_path / "out", labs=["00", "77"])
    with pytest.raises(InvalidRequest, match="the labkit that runs is in"):
        build_course(tmp_path, tmp_path / "out", "")
    monkeypatch.setattr(wheel, "_version", lambda package: {"pip": "23.2", "setuptools": "65.5.0"}[package])
    with pytest.raises(NotAvailable, match=r"this Python has pip 23\.2, setuptools 65\.5\.0; .* install --upgrade"):
        course(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_set_up_of_a_learner_wants_one_wheel(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "environment", tmp_path / "environment")
    (tmp_path / "packages").mkdir()
    for names in ((), ("labkit-1-py3-none-any.whl", "labkit-2-py3-none-any.whl")):
        for name in names:
            (tmp_path / "packages" / name).touch()
        done = subprocess.run([tmp_path / "environment/setup.sh"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("packages/ must hold one wheel of labkit; it holds: " + " ".join(names))
