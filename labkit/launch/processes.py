"""Handles the processes of ranks on this host: starts them, passes on what they print, watches them, and ends them.

This module does not know what the processes compute or how they talk to each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

MOST_RANKS = 64
WATCH_SECONDS = 0.1
END_OF_OUTPUT = "\0"
"""A line that begins with this text is not shown. It means that all output of one task has arrived."""

PARENT = "LABKIT_RANKS_PARENT"
"""The environment variable with the process id of the process that started a rank."""

_KEPT_LINES = 5


class RankProcess:
    """The process of one rank: `python -m MODULE ARGUMENTS`, in a process group of its own.

    Every line that the process prints is passed to `say`, labelled with the rank. The attribute `say` may be replaced.
    `said_all` is set when a line that begins with `END_OF_OUTPUT` has arrived or the output has ended. environ: variables that
    are added to the environment of this process. handles: open files that the process inherits.
    """

    def __init__(
        self,
        rank: int,
        module: str,
        arguments: Sequence[str],
        *,
        say: Callable[[str], None],
        environ: Mapping[str, str],
        handles: Sequence[int] = (),
    ) -> None:
        self.rank, self.say = rank, say
        self.said_all = threading.Event()
        self._lines: list[str] = []
        own = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace", PARENT: str(os.getpid())}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | own | dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            pass_fds=handles,
            process_group=0,  # so that Ctrl-C reaches only the process that started this process
        )
        threading.Thread(target=self._relay, daemon=True, name=f"labkit output of rank {rank}").start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """The exit status, or None while the process runs. It is minus the signal's number if a signal ended the process."""
        return self._process.poll()

    def how_it_ended(self) -> str:
        """How the process ended, in words. Waits for its end, but at most one second."""
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        if status < 0:
            return f"its process was ended by signal {-status}"
        last = f"; its last line of output was: {self._lines[-1]}" if self._lines else ""
        return f"its process ended with status {status}{last}"

    def kill(self) -> None:
        """Kill the process and return at once."""
        self._process.kill()

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()

    def _relay(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith(END_OF_OUTPUT):
                    self.said_all.set()
                    continue
                self._lines = [*self._lines[1 - _KEPT_LINES :], line.rstrip()]
                self.say(f"[rank {self.rank}] {line.rstrip()}")
        self.said_all.set()


class RankProcesses:
    """The processes of one run. `end` must be called when the run is over; calling `end` again does no harm."""

    def __init__(self) -> None:
        self._processes: list[RankProcess] = []
        self._ending = threading.Event()

    def __iter__(self) -> Iterator[RankProcess]:
        return iter(list(self._processes))

    def add(self, process: RankProcess) -> None:
        """Add a process that has just been started, so that it is watched and ended."""
        self._processes.append(process)

    def watch(self, fault_of: Callable[[RankProcess], str], on_failure: Callable[[str], None]) -> None:
        """Check all processes from a thread until `end` is called.

        fault_of: returns a text that says what is wrong with a process, or an empty string if nothing is wrong. At the first
        fault, all processes are killed, and `on_failure` is called with this text.
        """
        threading.Thread(target=self._watch, args=(fault_of, on_failure), daemon=True, name="labkit watch of ranks").start()

    def end(self) -> None:
        """Kill all processes and wait until they have ended."""
        self._ending.set()
        for process in self:
            process.kill()
        for process in self:
            process.wait()

    def _watch(self, fault_of: Callable[[RankProcess], str], on_failure: Callable[[str], None]) -> None:
        while not self._ending.wait(WATCH_SECONDS):
            found = next(filter(None, map(fault_of, self)), "")
            if found:
                for process in self:
                    process.kill()
                on_failure(found)
                return


def end_with_parent() -> None:
    """End this process soon after the process that started it has ended for any reason.

    The parent may have ended before this call, so its process id is read from the environment variable `PARENT`.
    """
    parent = int(os.environ[PARENT])

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="labkit parent").start()
