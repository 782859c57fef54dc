"""A test that waits for a process for ever: its failure shows where the process waits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HANGS = """
import subprocess, sys, time

PROGRAM = "import time\\ndef wait_for_ever():\\n    time.sleep(1000)\\nwait_for_ever()"
LEAVES = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {PROGRAM!r}])"

def test_waits_for_a_child():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

def test_waits_for_an_orphan_that_has_the_pipe():
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True)
    assert not done.stderr, done.stderr

def test_waits_alone():
    time.sleep(1000)
"""


def test_the_failure_says_where_it_hangs(tmp_path: Path) -> None:
    (tmp_path / "test_hangs.py").write_text(HANGS)
    (tmp_path / "conftest.py").write_text("import tests.hung\ntests.hung.LAST_SECONDS = 5.0\n")
    options = ["-p", "pytest_timeout", "-p", "tests.hung", "--rootdir", str(tmp_path), "-c", "/dev/null", "--timeout", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    child, orphan, alone = re.split(r"\n_+ test_waits_\w+ _+\n", done.stdout)[1:]
    for shown in (child, orphan, alone):
        assert "did not end within 5 seconds. Its processes are ended:" in shown
    assert "in wait_for_ever" in child
    assert "in wait_for_ever" in orphan
    assert "Timeout (>5.0s) from pytest-timeout" in alone
