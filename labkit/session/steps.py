"""A step of the set-up of a machine, and how long it takes: measured here, estimated, or not measured here."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MEASURED, ESTIMATED, DONE, NOT_MEASURED = "measured", "estimated", "done", "not measured here"
"""How the seconds of a step were found. A step that is "done" takes no more time."""
MOST_SECONDS = 300.0
"""A step that takes longer than this is stopped, and counts as "not measured here"."""


@dataclass(frozen=True)
class Step:
    """A step of the set-up.

    `labs` are the labs that need the step. `seconds` is None if the step is done or not measured here. `note` gives details,
    for example why the step is not measured here. `is_to_come` says whether the step still has to run before a lab can begin.
    It is False for steps that are done, and for steps that are parts of another step.
    """

    name: str
    labs: tuple[str, ...]
    how: str
    seconds: float | None = None
    note: str = ""
    is_to_come: bool = True


def timed(name: str, labs: Sequence[str], run: Callable[[], str], note: str = "", *, is_to_come: bool = True) -> Step:
    """Time a call of `run` and return it as a step. If `run` returns a text, the step was not measured here, and the text says
    why.
    """
    began = time.perf_counter()
    why = run()
    seconds = round(time.perf_counter() - began, 1)
    if why:
        return Step(name, tuple(labs), NOT_MEASURED, None, why, is_to_come)
    return Step(name, tuple(labs), MEASURED, seconds, note, is_to_come)


def done(name: str, labs: Sequence[str], note: str) -> Step:
    """Return a step that is already done on this machine."""
    return Step(name, tuple(labs), DONE, None, note, is_to_come=False)


def download(name: str, labs: Sequence[str], megabytes: int, megabits: float, note: str = "") -> Step:
    """Return the step of a download of `megabytes` MB at `megabits` Mbit per second. The time is an estimate."""
    about = f"{megabytes:,} MB at {megabits:g} Mbit/s"
    return Step(name, tuple(labs), ESTIMATED, round(8 * megabytes / megabits, 1), f"{about}; {note}" if note else about)


def program(command: Sequence[str]) -> Callable[[], str]:
    """Return a function for `timed` that runs a program in a new process."""

    def run() -> str:
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"it took longer than {MOST_SECONDS:g} seconds"
        except OSError as error:
            return str(error)
        last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
        return "" if ended.returncode == 0 else (last[0][:200] if last else f"it ended with status {ended.returncode}")

    return run
