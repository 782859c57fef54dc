"""`make env` on machines that lack something ends with a message that says what to do.

The files that the set-up reads are in a folder whose name has spaces and letters outside ASCII.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.first_hour.machine import ORDINARY, READS_ALL, Machine, copy_set_up, environment_with_pip
from tests.first_hour.pages import ROOT

OTHERS = [path for minor in (8, 9, 10, 13, 14) if (path := shutil.which(f"python3.{minor}"))]
PYTHON = {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1"}
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="not measured here: only root can mount a small disk")
NO_NETWORK = ("unshare", "--net", *(() if IS_ROOT else ("--user", "--map-root-user")))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """The files of the set-up, and an empty home."""
    folder, home = tmp_path / "Kurs für Łukasz", tmp_path / "home"
    home.mkdir()
    copy_set_up(folder)
    return Machine(folder, home, more=PYTHON)


def sentences(said: str) -> list[str]:
    """The lines of an output, without the numbered steps, the lines that show progress, and make's line about the status."""
    return [line for line in said.splitlines() if line and not re.match(r"\[\d/\d\] | +\d+ s: |make: ", line)]


def on_a_small_disk(machine: Machine, size: str, variable: str = "PLACE") -> str:
    """The output of `make env` if a disk of this size holds the course (`PLACE`) or the temporary files (`TMPDIR`)."""
    disk = machine.home / "disk"
    disk.mkdir()
    course = 'cp -r . "$DISK" && cd "$DISK"' if variable == "PLACE" else 'export TMPDIR="$DISK"'
    line = f'mount -t tmpfs -o size={size} tmpfs "$DISK" && {course} && make env; status=$?; ls -A . >&2; exit $status'
    return replace(machine, before=("unshare", "--mount"), more=PYTHON | {"DISK": str(disk)}).run(line, status=2)


@pytest.mark.parametrize("python", OTHERS or [None])
def test_another_python(machine: Machine, python: str | None) -> None:
    if python is None:
        pytest.skip("not measured here: no Python but 3.11 and 3.12 on PATH")
    first, second = sentences(replace(machine, more={"PYTHON": python}).run("make env", status=2))
    assert first.startswith(f"labkit needs Python 3.11 or 3.12, and {python} is ")
    assert second.endswith("make env PYTHON=python3.12")
    assert not (machine.folder / ".venv").exists()


def test_no_python(machine: Machine, tmp_path: Path) -> None:
    """If PATH has the programs of a bare Debian but no Python, the message says what to install."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "sh", "make", "cat", "cut", "dirname", "sed", "sha256sum"):
        (programs / name).symlink_to(str(shutil.which(name)))
    first, second = sentences(replace(machine, more={"PATH": str(programs)}).run("make env", status=2))
    assert first == "labkit needs Python 3.11 or 3.12, and there is no python3."
    assert "sudo apt-get install python3 python3-venv" in second


@needs_root
@pytest.mark.parametrize("variable", ["PLACE", "TMPDIR"])
def test_a_full_disk_is_found_before_anything_is_made(machine: Machine, variable: str) -> None:
    said = on_a_small_disk(machine, "60m", variable)
    (sentence, *files) = sentences(said)
    assert re.fullmatch(
        rf"The packages do not fit: the disk of {machine.home}/disk has \d+ MB left, and 500 MB are needed\. "
        r"Free some space, then run this again\.",
        sentence,
    )
    assert "environment" in files
    assert ".venv" not in files


def test_a_folder_that_cannot_be_written(machine: Machine) -> None:
    user: tuple[str, ...] = ()
    if IS_ROOT:
        machine.folder.parents[2].chmod(0o755)
        user = ("setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups", *READS_ALL)
    machine.folder.chmod(0o555)
    (sentence,) = sentences(replace(machine, before=user).run("make env", status=2))
    assert sentence == (
        f"The folder {machine.folder} cannot be written: copy the course into a folder of your own, then run this again."
    )


def test_no_folder_for_temporary_files(machine: Machine) -> None:
    (sentence,) = sentences(replace(machine, more=PYTHON | {"TMPDIR": "/proc"}).run("make env", status=2))
    assert sentence.startswith("The folder for temporary files, /proc, cannot be written: set TMPDIR")


def test_without_a_network(machine: Machine) -> None:
    """The environment is made, but nothing is installed. The next run of `make env` continues from this state."""
    probe = subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("not measured here: no network of its own can be made")
    said = replace(machine, before=NO_NETWORK).run("make env", status=2)
    assert sentences(said) == [
        "pip cannot reach the package index. Connect this machine to the network (or tell pip your proxy: HTTPS_PROXY), "
        "then run this again."
    ]
    assert (machine.folder / ".venv" / "bin" / "pip").exists()
    assert not (machine.folder / ".venv" / ".made-from").exists()


def test_a_package_that_cannot_be_installed_is_shown_with_what_pip_said(machine: Machine) -> None:
    constraints = machine.folder / "environment" / "constraints.txt"
    constraints.write_text(re.sub(r"^torch==.*$", "torch==0.0.1", constraints.read_text("utf-8"), flags=re.MULTILINE), "utf-8")
    (machine.home / "wheels").mkdir()
    environment_with_pip(machine.folder / ".venv")
    more = PYTHON | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(machine.home / "wheels")}
    *pip, last = sentences(replace(machine, more=more).run("make env", status=2))
    assert "torch==0.0.1" in "\n".join(pip)
    assert last == "pip could not install a package; its last lines above say why. Run this again when that is mended."


def test_the_pages_name_the_sentences() -> None:
    """`docs/learner.md` has an entry for each of the problems that learners have most often."""
    entries = re.findall(
        r"^- \*\*([^*]+)\*\*", (ROOT / "docs/learner.md").read_text("utf-8").split("## If something fails")[1], re.M
    )
    assert {"Python is too old or too new.", "No C++ compiler.", "No network."} <= set(entries)
