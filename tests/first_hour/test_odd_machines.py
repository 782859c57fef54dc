"""A course that was set up is used on unusual machines.

Another user starts it, the home is read-only, the disk is full, or there is little memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.control_groups import real_group
from tests.first_hour.conftest import Course
from tests.first_hour.machine import ORDINARY, READS_ALL, Machine, end
from tests.first_hour.pages import block, command
from tests.first_hour.test_learner import wait_for_address

MAKE_LAB = command("README.md", "make lab")
GENERATE = ".venv/bin/labkit generate 'In the beginning' --max-new-tokens 4"
CHECK = ".venv/bin/labkit check labs/00_class_environment.ipynb"
GIB = 2**30

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="not measured here: only root can become another user and mount disks"),
]


@pytest.fixture(scope="module")
def user(course: Course) -> Machine:
    """The course, whose files belong to a user without special rights who also runs its commands."""
    home = course.machine.home.with_name("user")
    home.mkdir()
    owned = [home, course.machine.folder, *course.machine.folder.rglob("*")]
    for path in owned:
        os.chown(path, ORDINARY, ORDINARY, follow_symlinks=False)
    as_user = ("setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups", *READS_ALL)
    return replace(course.machine, home=home, before=(*course.machine.before, *as_user))


def test_an_ordinary_user_gets_jupyterlab(user: Machine, tmp_path: Path) -> None:
    process = user.start(MAKE_LAB, tmp_path / "log")
    try:
        port, token = wait_for_address(tmp_path / "log")
        assert port == "8888"
        assert (
            user.run(f"curl -s -o /dev/null -w '%{{http_code}}' 'http://127.0.0.1:{port}/api/contents?token={token}'") == "200"
        )
    finally:
        end(process)
    assert (user.home / ".local/share/jupyter").stat().st_uid == ORDINARY


@pytest.fixture
def read_only(user: Machine) -> Iterator[Machine]:
    """The same user with a read-only home."""
    home = user.home.with_name("read-only")
    home.mkdir(mode=0o555)
    yield replace(user, home=home)
    home.rmdir()


def test_with_a_home_that_can_only_be_read_jupyterlab_is_refused_in_one_sentence(read_only: Machine) -> None:
    said = read_only.run(MAKE_LAB, status=2)
    assert "Traceback" not in said
    assert re.search(rf"^labkit: .*{read_only.home}.* HOME=", said, re.MULTILINE), said


def test_with_a_home_that_can_only_be_read_the_engine_works(read_only: Machine) -> None:
    assert read_only.run(GENERATE).strip()
    assert "not attempted" in read_only.run(CHECK, status=0)


def test_with_a_full_disk_progress_is_refused_in_one_sentence(user: Machine) -> None:
    disk = user.home.with_name("disk")
    disk.mkdir()
    line = f"mount -t tmpfs -o size=16k tmpfs {disk} && (cat /dev/zero > {disk}/all 2>/dev/null; {GENERATE}; {CHECK}; true)"
    said = replace(user, home=disk, before=("unshare", "--mount")).run(line)
    assert "Traceback" not in said, said


def test_a_machine_with_4_gib(user: Machine, tmp_path: Path) -> None:
    """Run the script of the README and the description of the machine in a control group that is limited to 4 GiB."""
    (user.folder / "mine.py").write_text(block("README.md", "import labkit"), "utf-8")
    with real_group("memory", {1: {"memory.limit_in_bytes": 4 * GIB}, 2: {"memory.max": 4 * GIB}}) as group:
        enter = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
        small = replace(user, before=(*enter, *user.before))
        assert len(small.run(".venv/bin/python mine.py").split()) > 10
        said = small.run(".venv/bin/labkit doctor")
    assert "4.0 GiB" in said
