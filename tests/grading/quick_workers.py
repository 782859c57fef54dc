"""Runs many jobs of the grading worker as forks of one process, so torch is imported once. It reads a line per job and prints
the exit status.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.grading import notebook_check
from labkit.grading.run_worker import End


@contextlib.contextmanager
def quick_workers() -> Iterator[None]:
    """In this block, `labkit.grading.notebook_check` runs its jobs in forks. Nothing else changes."""
    command = [sys.executable, "-BPm", "tests.grading.quick_workers"]
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        ) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert server.stdin is not None
        assert server.stdout is not None

        def run(command: list[str], folder: str, seconds: float) -> End:
            frame = Path(folder).parent / "frame"
            print(json.dumps([[*command[2:], str(frame)], folder]), file=server.stdin, flush=True)
            return End(int(server.stdout.readline()), frame.read_bytes() if frame.exists() else b"")

        patch.setattr(notebook_check, "_run", run)
        yield
        server.stdin.close()


def main() -> None:
    from labkit.exercises.registry import all_exercises
    from labkit.grading import worker

    os.environ["TRITON_INTERPRET"] = "1"
    all_exercises()
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for line in sys.stdin:
        arguments, folder = json.loads(line)
        pid = os.fork()
        if pid == 0:
            for number in (0, 1, 2):
                os.dup2(nowhere, number)
            os.chdir(folder)
            sys.argv = arguments
            status = 1
            with contextlib.suppress(Exception):
                worker.main()
                status = 0
            os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main()
