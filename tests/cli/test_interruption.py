"""A signal ends the waiting of a command, at whatever moment it arrives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from labkit.cli.interruption import Interruption
from tests.patience import PATIENCE

SIGNALS = """
import signal, sys
from labkit.cli.interruption import Interruption

told = Interruption()
told.listen(signal.SIGUSR1)
lines = []

def interrupt(frame, event, argument):
    lines.append(frame.f_lineno)
    signal.raise_signal(signal.SIGUSR1)
    return interrupt

sys.settrace(interrupt)
told.wait(0.01)
sys.settrace(None)
print(told.is_set(), len(lines))
"""
"""A program that gets a signal at each line of `wait`."""


def test_a_signal_at_any_line_of_the_wait_ends_it() -> None:
    """With a `threading.Event` in the place of `Interruption`, this program waits for ever."""
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    is_set, lines = done.stdout.split()
    assert is_set == "True"
    assert int(lines) >= 3


def test_it_waits_until_it_is_set() -> None:
    told = Interruption()
    began = time.monotonic()
    assert not told.wait(0.05)
    assert time.monotonic() - began >= 0.05
    assert not told.is_set()
    told.set()
    assert told.is_set()
    assert told.wait(PATIENCE)
    assert told.wait(PATIENCE), "it stays set"


def test_only_a_later_signal_calls_again() -> None:
    told, calls = Interruption(), []
    told.again = lambda: calls.append(told.is_set())
    before = signal.getsignal(signal.SIGUSR1)
    try:
        told.listen(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert told.wait(0.0)
        assert not calls
        signal.raise_signal(signal.SIGUSR1)
        assert calls == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)
