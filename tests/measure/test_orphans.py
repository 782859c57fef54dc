"""Inside a `with` block, a process adopts the orphaned processes that its descendants leave behind. The blocks of several
threads can overlap.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import psutil
import pytest

from labkit.measure.orphans import GET_CHILD_SUBREAPER, adopting_orphans
from tests.busy_core import LAUNCHER

SLEEPS = "print('ready', flush=True); import time; time.sleep(600)"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="not measured here: only Linux has this")


def adopts() -> bool:
    state = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(GET_CHILD_SUBREAPER, ctypes.byref(state), 0, 0, 0)
    return bool(state.value)


def test_an_orphan_becomes_a_child_in_a_block_only() -> None:
    def orphan() -> psutil.Process:
        done = subprocess.run([sys.executable, "-c", LAUNCHER, SLEEPS], stdout=subprocess.PIPE, check=True)
        return psutil.Process(int(done.stdout))

    with adopting_orphans():
        inside = orphan()
    outside = orphan()
    try:
        assert inside.ppid() == psutil.Process().pid
        assert outside.ppid() != psutil.Process().pid
    finally:
        inside.kill()
        outside.kill()


def test_the_last_of_overlapping_blocks_restores_the_state() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with adopting_orphans():
            entered.set()
            leave.wait()

    assert not adopts()
    thread = threading.Thread(target=other)
    with adopting_orphans():
        thread.start()
        entered.wait()
    assert adopts()
    leave.set()
    thread.join()
    assert not adopts()
