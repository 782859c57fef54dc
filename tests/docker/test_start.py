"""docker/start.sh: which notebooks it copies to the volume, and which JupyterLab it starts. No image is needed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

START = Path(__file__).parents[2] / "docker" / "start.sh"
LAB, SOLUTION, COURSE = "labs/00.ipynb", "solutions/00.ipynb", "labs/course.toml"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """An empty volume, beside a small image."""
    for name in (LAB, SOLUTION, COURSE):
        file = tmp_path / "image" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "bin").mkdir()
    for program in ("labkit", "jupyterhub-singleuser"):
        (tmp_path / "bin" / program).write_text(f'#!/bin/sh\necho {program} "$@"\n')
        (tmp_path / "bin" / program).chmod(0o755)
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def start(volume: Path, **more: str) -> str:
    """Run start.sh with this volume; return the command that it ran at its end."""
    place = volume.parent
    text = START.read_text("utf-8")
    for line, folder in (("image=/opt/course", place / "image"), ("course=/home/learner/course", volume)):
        assert f"\n{line}\n" in text
        text = text.replace(f"\n{line}\n", f"\n{line.partition('=')[0]}={folder}\n")
    (place / "start.sh").write_text(text)
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTERHUB_")}
    environment = kept | {"PATH": path, "HOME": str(place)} | more
    done = subprocess.run(["bash", place / "start.sh"], env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def copied(volume: Path) -> set[str]:
    return {file.relative_to(volume).as_posix() for file in volume.rglob("*") if file.is_file()}


def test_a_learner_of_ones_own_image_gets_labs_and_solutions(volume: Path) -> None:
    assert start(volume).startswith("labkit lab ")
    assert copied(volume) == {LAB, SOLUTION, COURSE}
    (volume / LAB).write_text("what I wrote myself")
    start(volume)
    assert (volume / LAB).read_text() == "what I wrote myself"


def test_a_session_of_a_hub_gets_no_solutions(volume: Path) -> None:
    assert start(volume, JUPYTERHUB_API_TOKEN="token").startswith("jupyterhub-singleuser ")
    assert copied(volume) == {LAB, COURSE}
