"""The package as pip sees it: certain Python versions can install it, and its native library does not depend on Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from labkit.native.build import TARGET

ROOT = Path(__file__).parents[1]
OTHERS = [path for name in ("python3.13", "python3.10") if (path := shutil.which(name))]


def test_other_pythons_are_refused_by_pip_and_by_the_set_up_alike() -> None:
    """pip and the set-up both accept Python 3.11 and 3.12, with which the project is tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    taken = SpecifierSet(project["requires-python"])
    assert [minor for minor in range(8, 16) if f"3.{minor}.1" in taken] == [11, 12]
    fits = re.search(r"\((3, \d+)\) <= sys\.version_info\[:2\] <= \((3, \d+)\)", (ROOT / "environment/setup.sh").read_text())
    assert fits is not None
    assert fits.groups() == ("3, 11", "3, 12")


@pytest.mark.parametrize("python", OTHERS or [None])
def test_the_set_up_refuses_another_python_in_words(python: str | None, tmp_path: Path) -> None:
    if python is None:
        pytest.skip("not measured here: no Python but 3.11 and 3.12 on PATH")
    for folder in ("labkit", "environment"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__", "builtin"))
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [tmp_path / "environment/setup.sh"], env=os.environ | {"PYTHON": python}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "labkit needs Python 3.11 or 3.12, and " in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_one_wheel_serves_every_python() -> None:
    if not TARGET.exists():
        pytest.skip("not measured here: the native library is not built")
    if not (nm := shutil.which("nm")):
        pytest.skip("not measured here: no nm, which lists what a library needs")
    needed = subprocess.run([nm, "-D", "--undefined-only", TARGET], capture_output=True, text=True, check=True).stdout
    assert "malloc" in needed or "memcpy" in needed  # the list is not empty
    assert not re.search(r"\bPy[A-Z_]", needed)
    code = (
        "import setuptools, setup as labkit_setup\n"
        "command = labkit_setup.AnyPython(labkit_setup.PlatformDistribution({'name': 'labkit', 'version': '1'}))\n"
        "command.finalize_options()\n"
        "print(*command.get_tag())"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['setup.py', '--name']\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named 'setuptools.command.bdist_wheel'" in done.stderr:
        pytest.skip("not measured here: this environment's setuptools makes no wheels by itself")
    assert done.returncode == 0, done.stderr
    python, abi, platform = done.stdout.split()[-3:]
    assert (python, abi) == ("py3", "none")
    assert platform != "any"
