"""Runs the functions of one notebook, each in a separate process, reads the functions' answers, and ends all processes that the
functions started.

Importing torch takes seconds, so only one process imports it: the host (`labkit.grading.worker_host`). A worker for each
function is forked from the host. If there is a sandbox, the host and its workers run in it. A message to the host asks for a
worker, and each worker writes its answers to a separate pipe.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from labkit.grading.sandbox import Sandbox
from labkit.measure.memory import processes, resident_bytes
from labkit.time_limits import limit_passed

MOST_BYTES = 64 * 2**20
"""At most this many bytes are read from a learner's process."""
MOST_PROCESSES, MOST_MEMORY_BYTES = 300, 12 * 2**30
"""Limits on the number of a learner's processes, and on their total resident memory in bytes.

If a limit is exceeded, all these processes are ended. The host counts, too.
"""
NO_WORKER = "no worker: "
"""The host's answer begins with these words if it could not start a worker. The reason follows."""
HOST_SECONDS = 300.0
"""The time limit for starting the host, which imports torch."""
END_SECONDS = 3.0
"""For this many seconds, processes that a worker has left behind are killed. If any is left, the host and its sandbox end.

A process that starts a copy of itself and ends, again and again, can escape from being killed, but not outlive its sandbox.
"""
KILL_SECONDS = 30.0
"""How many seconds to wait for the end of a killed host."""
WATCH_SECONDS = 0.3


@dataclass(frozen=True)
class End:
    """How a worker ended: its exit status (None if its time ran out), its answer in bytes, and the reason if it was stopped.

    `has_run` is false if no worker could be started. Then `problem` says why, and the learner's code is not to blame.
    """

    status: int | None
    written: bytes = b""
    problem: str = ""
    has_run: bool = True


class Workers:
    """The workers for a notebook in `folder`. The workers can read this folder.

    Use this class as a context manager. When the context ends, all processes are ended.

    If there is no `sandbox`, the functions run as the current user.
    """

    def __init__(self, folder: Path | None = None, sandbox: Sandbox | None = None) -> None:
        self._folder, self._sandbox = folder, sandbox
        self._host: _Host | None = None
        self._jobs: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Workers:
        self._jobs = tempfile.TemporaryDirectory(prefix="labkit-check-", ignore_cleanup_errors=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_host()
        if self._jobs:
            self._jobs.cleanup()

    @property
    def jobs(self) -> Path:
        """A folder for jobs and for files. The workers can read it, and outside of a sandbox they can also write to it."""
        assert self._jobs is not None, "use Workers in a `with` statement"
        return Path(self._jobs.name)

    def run(self, job: Path, folder: Path, seconds: float, needs: Sequence[str] = ()) -> End:
        """Run the job in this file, in a worker whose current folder is `folder` unless it is in a sandbox.

        When the worker ends, all processes that it has started are ended. `needs` are the folders of `sandbox.HIDDEN` that the
        worker can see. If a function needs other folders than the previous function, or if the host has ended meanwhile, the
        function gets a new sandbox.
        """
        if self._host and (self._host.needs != tuple(needs) or not self._host.is_running):
            self._end_host()
        self._host = self._host or _Host(self._command(needs), tuple(needs))
        end = self._host.run(job, folder, seconds)
        if self._host.has_ended:
            self._end_host()
        return end

    def _command(self, needs: Sequence[str]) -> list[str]:
        command = [sys.executable, "-BPm", "labkit.grading.worker_host"]
        if self._sandbox is None:
            return command
        return self._sandbox.command(command, [self.jobs, *([self._folder] if self._folder else [])], needs)

    def _end_host(self) -> None:
        if self._host:
            self._host.end()
        self._host = None


class _Host:
    """The process from which workers are forked, and the processes that make the sandbox around it."""

    def __init__(self, command: list[str], needs: tuple[str, ...]) -> None:
        self.needs = needs
        self.has_ended = False
        self._control, theirs = socket.socketpair()
        nowhere = subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=nowhere,
                stdout=nowhere,
                stderr=nowhere,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._own: frozenset[psutil.Process] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the host, or the sandbox around it, still runs."""
        return self._process.poll() is None

    def run(self, job: Path, folder: Path, seconds: float) -> End:
        """See `Workers.run`."""
        if self._own is None and (problem := self._start()):
            return End(None, problem=problem, has_run=False)
        source, write = os.pipe()
        try:
            socket.send_fds(self._control, [f"{job}\n{folder}".encode()], [write])
        except OSError:
            os.close(source)
            self.end()
            self._control.close()
            return End(None, problem="the process for the function ended before it got its job", has_run=False)
        finally:
            os.close(write)
        reader = _Reader(source)
        reader.start()
        answer = _Answer(self._control)
        problem, is_late = "", False
        try:
            problem, is_late = self._watch(answer, reader, seconds)
        finally:
            if problem or answer.is_alive() or not answer.text:
                self.end()
            else:
                self._end_workers()
            answer.join()
            reader.stop()
            if self.has_ended:
                self._control.close()
        if answer.text.startswith(NO_WORKER):
            return End(None, problem=f"no process could be started ({answer.text.removeprefix(NO_WORKER)})", has_run=False)
        is_number = answer.text.removeprefix("-").isdecimal()
        return End(
            None if is_late else int(answer.text) if is_number else self._process.returncode, bytes(reader.found), problem
        )

    def end(self) -> None:
        """Kill the host, all processes that its workers have started and, with them, the sandbox."""
        self.has_ended = True
        _kill_groups(self._members())
        kill_with_descendants(self._process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # The kernel can hold a killed process, for example in a driver.
            self._process.wait(KILL_SECONDS)
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def _start(self) -> str:
        """Wait until the host is ready. The result is an error as a part of a sentence, or ""."""
        self._control.settimeout(HOST_SECONDS)
        try:
            is_ready = self._control.recv(1) != b""
        except TimeoutError:
            limit_passed(problem := f"the process for the function did not start within {HOST_SECONDS:g} seconds")
            self.end()
            return problem
        except OSError:
            is_ready = False
        if not is_ready:
            self.end()
            return f"the process for the function did not start (status {self._process.returncode})"
        self._control.settimeout(None)
        self._own = frozenset(self._members())
        return ""

    def _members(self) -> list[psutil.Process]:
        """The host, the processes around it, and all processes that its workers have started."""
        try:
            return processes(self._process.pid)
        except psutil.Error:
            return []

    def _end_workers(self) -> None:
        """Kill the processes that a worker has left behind. This is repeated while these processes start others.

        A process that starts another one and ends at once may never be seen while it runs. But it stays in the list as a
        zombie, so nothing is left only if two lists in a row are equal. If something is left after `END_SECONDS`, or if there
        are too many processes, the host and its sandbox are ended.
        """
        own = self._own or frozenset()
        until = time.monotonic() + END_SECONDS
        before: set[psutil.Process] | None = None
        while (left := {each for each in self._members() if each not in own}) != before or any(map(_runs, left)):
            if time.monotonic() >= until or len(left) > MOST_PROCESSES:
                self.end()
                return
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            before = left
            time.sleep(0.01)

    def _watch(self, answer: _Answer, reader: _Reader, seconds: float) -> tuple[str, bool]:
        """Wait for the end of a worker.

        The first value says why the worker must be stopped; it is "" if the worker has ended. The second value says whether the
        worker's time ran out.
        """
        until = time.monotonic() + seconds
        while answer.is_alive():
            answer.join(min(WATCH_SECONDS, max(until - time.monotonic(), 0.0)))
            if reader.is_too_much:
                return f"Your function returned more than {MOST_BYTES // 2**20} MiB.", False
            if answer.is_alive() and time.monotonic() >= until:
                limit_passed(f"your function did not finish within {seconds:g} seconds")
                return f"Your function ran for more than {seconds:g} seconds and was stopped.", True
            with contextlib.suppress(psutil.Error):
                started = self._members()
                if len(started) > MOST_PROCESSES:
                    return f"Your function started more than {MOST_PROCESSES} processes and was stopped.", False
                if resident_bytes(started) > MOST_MEMORY_BYTES:
                    words = f"Your function used more than {MOST_MEMORY_BYTES // 2**30} GiB of memory and was stopped."
                    return words, False
        return "", False


def _runs(process: psutil.Process) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _kill_groups(members: Iterable[psutil.Process]) -> None:
    """Kill the process groups of these processes, because a group may contain processes whose parent has ended."""
    for process in members:
        with contextlib.suppress(OSError):
            if (group := os.getpgid(process.pid)) != os.getpgrp():
                os.killpg(group, signal.SIGKILL)


def kill_with_descendants(pid: int) -> None:
    """Kill a process that was not waited for yet, and its descendants, including descendants that have left its session."""
    with contextlib.suppress(psutil.Error):
        for process in processes(pid):
            with contextlib.suppress(psutil.Error):
                process.kill()


class _Answer(threading.Thread):
    """Waits for the exit status of a worker, which the host sends as a text. The text is empty if the host has ended."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__(daemon=True)
        self._control = control
        self.text = ""
        self.start()

    def run(self) -> None:
        """Wait for the exit status. Python calls this in the thread.

        The thread sleeps meanwhile; a wait with a time limit would wake it 20 times per second.
        """
        with contextlib.suppress(OSError):
            self.text = self._control.recv(100).decode("ascii", "replace")


class _Reader(threading.Thread):
    """Reads a pipe until every writer has closed it, or until too many bytes have been read. Then closes the pipe."""

    def __init__(self, source: int) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._ends = threading.Event()
        self.found = bytearray()

    @property
    def is_too_much(self) -> bool:
        """Whether more bytes were written than are allowed."""
        return len(self.found) > MOST_BYTES

    def run(self) -> None:
        """Read the pipe. Python calls this in the thread."""
        os.set_blocking(self._source, False)
        with contextlib.closing(selectors.DefaultSelector()) as selector:
            selector.register(self._source, selectors.EVENT_READ)
            while not self.is_too_much:
                ends = self._ends.is_set()
                if selector.select(0 if ends else 0.1):
                    part = os.read(self._source, 2**20)
                    if not part:
                        break
                    self.found += part
                elif ends:
                    break
        os.close(self._source)

    def stop(self) -> None:
        """Read the remaining bytes, and end the thread, even if an unknown process keeps the pipe open."""
        self._ends.set()
        self.join()
