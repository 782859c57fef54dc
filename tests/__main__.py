"""Runs the tests that can share the machine, in several processes.

`python -m tests` leaves out tests that are marked `long` or `alone`. `python -m tests --all` runs the long tests too, and after
them the tests that must run alone. Other arguments go to pytest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from labkit.host_cores import usable_cores
from tests.conftest import SAVED

MOST_WORKERS = 5
"""The maximum number of processes that run tests. More processes would save little time and need more memory."""

SLOWEST = 15


def workers() -> int:
    """The number of processes that run tests: two more than there are cores, because tests often wait for other processes."""
    return min(usable_cores() + 2, MOST_WORKERS)


def run(title: str, options: list[str]) -> tuple[int, Counter[str]]:
    """Run pytest. Return its exit status, and the seconds of each test by the test's name."""
    print(f"== {title}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "pytest", *options]
        status = subprocess.run(command, env=kept_bytecode() | {SAVED: str(saved)}, check=False).returncode
        seconds = Counter(json.loads(saved.read_text())) if saved.exists() else Counter[str]()
    return 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else status, seconds


def kept_bytecode() -> dict[str, str]:
    """The environment in which Python keeps the bytecode of a module, so that the many processes of a run compile it once."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def names_files(arguments: list[str]) -> bool:
    """Whether the arguments for pytest name the files to run."""
    return any(Path(argument.partition("::")[0]).exists() for argument in arguments)


def files_alone() -> list[str]:
    """Return the files that contain tests marked `alone`.

    They are found here, because pytest needs as long to search all files as to run these tests.
    """
    return sorted(str(path) for path in Path("tests").rglob("test_*.py") if "mark.alone" in path.read_text("utf-8"))


def main(arguments: list[str]) -> int:
    """Run the tests, and print the slowest tests and the total time. Return the exit status of the first part that failed."""
    began = time.monotonic()
    count, is_all = workers(), "--all" in arguments
    more = [argument for argument in arguments if argument != "--all"]
    among = "not alone" if is_all else "not long and not alone"
    shared, seconds = run(f"{count} at a time", ["-n", str(count), "-m", among, *more])
    alone = 0
    if is_all:
        alone, alone_seconds = run("one at a time", ["-m", "alone", *([] if names_files(more) else files_alone()), *more])
        seconds += alone_seconds
    print(f"== the {SLOWEST} slowest of {len(seconds)} tests, in seconds, including their set-up")
    for name, took in seconds.most_common(SLOWEST):
        print(f"{took:7.1f}  {name}")
    print(f"== {(time.monotonic() - began) / 60:.1f} minutes; {'failed' if shared or alone else 'all passed'}")
    return shared or alone


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
