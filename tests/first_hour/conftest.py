"""The copy of the repository that most tests of the first hour share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.first_hour.machine import (
    DOWNLOADS_NOTHING,
    NO_COMPILER,
    NO_NETWORK_OF_ITS_OWN,
    Machine,
    copy_repository,
    loopback_alone,
    packages_without_downloads,
    use_built_kernels,
)


@dataclass(frozen=True)
class Course:
    """A course after its set-up: its machine, the output of the set-up, and the output of `labkit doctor` before the course had
    the native library.
    """

    machine: Machine
    set_up: str
    doctor: str


@pytest.fixture(scope="session")
def course() -> Iterator[Course]:
    """A copy of the repository, set up by `make env` without a compiler and without a network.

    All users can read the folder of the copy.
    """
    folder = Path(tempfile.mkdtemp(prefix="labkit-first-hour-"))
    folder.chmod(0o755)
    try:
        with loopback_alone() as before:
            if not before:
                pytest.skip(NO_NETWORK_OF_ITS_OWN)
            place, home = folder / "Kurs für Łukasz", folder / "home"
            copy_repository(place)
            home.mkdir()
            packages_without_downloads(place / ".venv")
            machine = Machine(place, home, before, DOWNLOADS_NOTHING)
            set_up = Machine(place, home, before, DOWNLOADS_NOTHING | NO_COMPILER).run("make env")
            doctor = machine.run(".venv/bin/labkit doctor")
            use_built_kernels(place)
            yield Course(machine, set_up, doctor)
    finally:
        shutil.rmtree(folder)
