"""Rank processes end when the process that started them ends, even if it ends before they begin to watch it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from labkit.launch.processes import PARENT

PROGRAM = """
import time
from labkit.launch.processes import end_with_parent
end_with_parent()
time.sleep({seconds})
raise SystemExit(7)
"""


@pytest.mark.parametrize(("parent", "seconds", "status"), [(os.getpid(), 1, 7), (1, 600, 1)], ids=["runs", "has ended"])
def test_a_rank_ends_if_its_parent_ended_before_it_looked(parent: int, seconds: int, status: int) -> None:
    """The first imports of a rank take seconds. If its parent ends during this time, the system gives the rank a new parent."""
    program = PROGRAM.format(seconds=seconds)
    assert subprocess.run([sys.executable, "-c", program], env=os.environ | {PARENT: str(parent)}).returncode == status
