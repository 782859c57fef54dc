"""The section "Add an exercise in 15 minutes" of `docs/new_lab.md`, followed literally in a copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.library.bare import ROOT

pytestmark = pytest.mark.long

PAGE = (ROOT / "docs" / "new_lab.md").read_text("utf-8")
SECTION = PAGE.split("## Add an exercise in 15 minutes")[1].split("\n## ")[0]
STEPS = re.findall(r"Add\s+this\s+at\s+the\s+end\s+of\s+`([^`]+)`:\n\n```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
"""The files to which the section adds code, each with the code that is added."""
COMMANDS = re.findall(r"^```sh\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)[0].splitlines()
COPIED = ("labkit", "labs", "solutions", "tests", "environment", "pyproject.toml", "Makefile")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Do the steps of the section. Return the output of each of its commands."""
    folder = tmp_path_factory.mktemp("repository")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    for name, text in STEPS:
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{text}")
    # The environment has the labkit of this repository. An author's environment would have the changed labkit of the copy.
    environment = os.environ | {"PYTHONPATH": str(folder), "LABKIT_HOME": str(folder / "home")}
    outputs = {"folder": str(folder)}
    for command in COMMANDS:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
        outputs[command.split()[1] if "labkit" in command.split()[0] else command.split()[-1].strip('"')] = done.stdout
    return outputs


def test_the_section_has_its_steps() -> None:
    files = ["labkit/exercises/lab00.py", "labkit/answers/lab00.py", "solutions/00_class_environment.py"]
    assert [name for name, _ in STEPS] == files
    assert len(COMMANDS) == 4


def test_each_mistake_of_the_new_exercise_was_tried(said: dict[str, str]) -> None:
    (dots,) = re.findall(r"^([.]+)", said["tokens_per_second"], re.MULTILINE)
    assert len(dots) >= 6  # the stub, the reference, four mistakes


def test_both_notebooks_have_the_new_exercise(said: dict[str, str]) -> None:
    folder = Path(said["folder"])
    for place, solution in (("labs", False), ("solutions", True)):
        notebook = json.loads((folder / place / "00_class_environment.ipynb").read_text("utf-8"))
        text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
        assert "### Exercise 0.7 (extra) · Tokens a second" in text
        assert ("return 1000 * batch / step_ms" in text) is solution


def test_labkit_check_shows_the_new_exercise(said: dict[str, str]) -> None:
    assert "tokens_per_second" in said["check"] or "Tokens a second" in said["check"]
