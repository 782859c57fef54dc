"""Builds a wheel of labkit without its answers, with the build back end that `pyproject.toml` names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from labkit.errors import InvalidRequest, LabkitError, NotAvailable
from labkit.grading.sandbox import HIDDEN

SETUPTOOLS = 77
"""The oldest version of setuptools that can build labkit. `pyproject.toml` requires it, too."""
_FILES = ("pyproject.toml", "setup.py", "LICENSE", "MANIFEST.in")
_NOT_COPIED = ("__pycache__", "*.pyc", "*.egg-info", "_native.so", "answer_sheet")


def build_wheel(root: Path, out: Path, work: Path, *, readme: str, sheet: Path | None) -> Path:
    """Build the wheel of the labkit in the course's folder `root`, and return its path in the folder `out`.

    The folder `sheet` becomes the package's `answer_sheet`. `work` is an empty folder for the sources without answers, and
    `readme` describes the package. The C++ kernels are compiled, so the wheel works on this platform only. Raises
    `InvalidRequest` if `root` has no labkit, `NotAvailable` if this Python lacks pip or setuptools, and `LabkitError` if the
    build fails.
    """
    need_builder()
    copy_sources(root, work, readme=readme, sheet=sheet)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(out), str(work)]
    # The time in the archive is fixed, so that equal sources make equal wheels.
    environment = os.environ | {"SOURCE_DATE_EPOCH": "315532800"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise LabkitError(f"the wheel could not be built:\n{(done.stderr or done.stdout).strip()[-2000:]}")
    (wheel,) = out.glob("labkit-*.whl")
    return wheel


def need_builder() -> None:
    """Raise `NotAvailable` unless this Python has pip and a version of setuptools that can build labkit."""
    found = {name: _version(name) for name in ("pip", "setuptools")}
    if not found["pip"] or int(found["setuptools"].partition(".")[0] or 0) < SETUPTOOLS:
        here = ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
        raise NotAvailable(
            f"a wheel is built with pip and setuptools {SETUPTOOLS} or newer; this Python has {here}; "
            f"{sys.executable} -m pip install --upgrade 'setuptools>={SETUPTOOLS}' gets them"
        )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def copy_sources(root: Path, work: Path, *, readme: str, sheet: Path | None) -> None:
    """Copy the sources of the package without its answers. Add the answer sheet if there is one."""
    if missing := [name for name in (*_FILES, "labkit") if not (root / name).exists()]:
        raise InvalidRequest(f"{root} has no {', '.join(missing)}; run this in the course's folder, or name it with --folder")
    work.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(root / name, work / name)
    (work / "README.md").write_text(readme, "utf-8")
    shutil.copytree(root / "labkit", work / "labkit", ignore=_ignored(root / "labkit"))
    if sheet:
        shutil.copytree(sheet, work / "labkit" / "answer_sheet")


def _ignored(package: Path) -> Callable[[str, list[str]], set[str]]:
    """The `ignore` argument for `shutil.copytree`: it skips the folders with answers, and files that the build makes again."""
    patterns = shutil.ignore_patterns(*_NOT_COPIED)
    hidden = {package / folder for folder in HIDDEN}

    def ignore(folder: str, names: list[str]) -> set[str]:
        return patterns(folder, names) | {name for name in names if Path(folder) / name in hidden}

    return ignore
