"""The process from which workers are forked: `python -m labkit.grading.worker_host CONTROL`.

This process, the host, has already imported the modules that a worker needs, so a new worker starts at once. The host never
runs a learner's code. CONTROL is the descriptor of a socket. Each message on the socket consists of the path of a job and the
path of a folder, and carries the descriptor of a pipe for the answers. When the worker has ended, the host sends back the
worker's exit status. If no worker could be started, it sends `NO_WORKER` and the reason.

A worker cannot read or change the memory of the host. If a worker could do that, it would gain nothing: the host has no
answers, and serves no other learner. On systems other than Linux, some libraries cannot be used after a fork. On these systems,
the host itself does its first job, and then ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

# Kernels are graded by the values that they compute. Triton's interpreter gives the same values on every machine.
os.environ["TRITON_INTERPRET"] = "1"

from labkit.exercises.registry import all_exercises
from labkit.forked import count_as_new
from labkit.grading import worker
from labkit.grading.sandbox import SCRATCH, WORK, is_inside
from labkit.grading.workers import NO_WORKER
from labkit.measure.orphans import adopting_orphans

CAN_FORK = sys.platform == "linux"
SET_DUMPABLE = 4  # from Linux's prctl


def main(control: socket.socket) -> None:
    """Do jobs until the socket is closed."""
    all_exercises()
    _protect_memory(True)
    control.send(b"+")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 2**16, 1)
        if not message:
            return
        job, folder = map(Path, message.decode().split("\n"))
        if not CAN_FORK:  # the grader kills this process when the socket closes, so the socket must stay open until the end
            _work(job, folder, descriptors[0])
            os._exit(0)
        try:
            _clear_scratch()
            _reap()
            pid = os.fork()
        except OSError as error:  # The machine has no memory, no disk space, or too many processes.
            os.close(descriptors[0])
            control.send(f"{NO_WORKER}{error.strerror}".encode())
            continue
        if pid == 0:
            control.close()
            _protect_memory(False)
            _forked(job, folder, descriptors[0])
        os.close(descriptors[0])
        control.send(str(_status_of(pid)).encode())


def _protect_memory(is_protected: bool) -> None:
    """Keep other processes of this user from reading this process's memory, or allow them to read it again."""
    if CAN_FORK:
        ctypes.CDLL(None).prctl(SET_DUMPABLE, int(not is_protected), 0, 0, 0)


def _forked(job: Path, folder: Path, out: int) -> None:
    """Do a job in a forked child, and end the child."""
    status = 1
    try:
        os.setsid()
        count_as_new()
        _work(job, folder, out)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    finally:
        os._exit(status)


def _work(job: Path, folder: Path, out: int) -> None:
    os.chdir(WORK if is_inside() else folder)
    sys.argv = [worker.__file__, str(job), f"/dev/fd/{out}"]
    worker.work(job, out)


def _status_of(pid: int) -> int:
    """Wait for the end of a child, kill the other processes of its session, and return its exit status."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # Until the child is reaped, its number is not reused.
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    _reap()
    return os.waitstatus_to_exitcode(status)


def _reap() -> None:
    """Remove the zombies of processes that a worker has left behind."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _clear_scratch() -> None:
    """Remove the files that the previous worker wrote in the sandbox."""
    if not is_inside():
        return
    for folder in SCRATCH:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
    os.makedirs(WORK, exist_ok=True)


if __name__ == "__main__":
    with adopting_orphans():
        main(socket.socket(fileno=int(sys.argv[1])))
