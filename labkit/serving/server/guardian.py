"""The guardian: a process between a `Server` and its tritonserver.

The guardian ends tritonserver when it is told to, or when the `Server`'s process has ended for any reason. Then the guardian
deletes the files and shared memory that tritonserver left. It is run as `python -m labkit.serving.server.guardian PARENT FOLDER
REGIONS SECONDS COMMAND...`. The guardian imports neither torch nor numpy.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from labkit.serving.access import SECRET_FILE, restricting_options, withdraw_secret
from labkit.serving.server.hidden_arguments import CannotHide, start_hidden
from labkit.serving.server.private_regions import PrivateRegions
from labkit.serving.server.server_folder import PID, REGIONS, delete_remains

LOOK_SECONDS = 0.1
STOP_SECONDS = 15.0
"""How many seconds a server may take to end, after the time in which it finishes its requests."""
CHILDREN_SECONDS = 2.0
"""How many seconds the processes of models may take to end after their server was asked to end."""

STACK_BYTES = 2**30
"""The size in bytes of the stack of each server thread, if the system allows this size. tritonserver reads nested JSON by
recursion and keeps a list of a body's parts on the stack. If the stack has the usual 8 MiB, a body of 150,000 brackets crashes
tritonserver. Unused stack costs nothing.
"""

SIGNALLED = 128
"""If a signal ended the server, the exit status is this number plus the signal's number, as in shells."""

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # from Linux's prctl


def main(parent: int, folder: Path, regions: str, drain_seconds: float, command: list[str]) -> int:
    """Run the command until it ends, a SIGTERM arrives, or process `parent` ends; returns the command's exit status, or 128 + n
    if signal n ended it.

    drain_seconds: how long the server may finish its requests after it was asked to end; a second SIGTERM kills it before.
    command: environment variables as NAME=VALUE, then the program and its arguments. If there is a file `folder/secret`, the
    server gets the options that restrict access by that secret. Writes the server's process id to `folder/pid`. At the end, the
    server's shared folder, the files of its secret, and its shared memory, whose names begin with `regions`, are deleted. If
    the parent has ended, `folder` itself is deleted too.
    """
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    _control_process(SET_CHILD_SUBREAPER, 1)
    (folder / REGIONS).write_text(regions)
    secret = _secret(folder)
    delete_remains(folder)  # a killed guardian may have left some regions
    with contextlib.suppress(OSError, ValueError):
        _give_large_stacks()
    server = _start(command, restricting_options(secret) if secret else [])
    (folder / PID).write_text(str(server.pid))
    memory = PrivateRegions(regions)
    while not told and os.getppid() == parent and not _has_ended(server):
        memory.watch(LOOK_SECONDS)
    end(server, drain_seconds + STOP_SECONDS, is_hurried=lambda: len(told) > 1)
    delete_remains(folder)
    withdraw_secret(folder)
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return server.returncode if server.returncode >= 0 else SIGNALLED - server.returncode


def _secret(folder: Path) -> str:
    """The server's secret; empty if the server has none."""
    file = folder / SECRET_FILE
    return file.read_text() if file.exists() else ""


def _start(command: list[str], secret_options: list[str]) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    while "=" in command[0] and not command[0].startswith("/"):
        name, _, environment[name] = command.pop(0).partition("=")
    if secret_options:
        try:
            return start_hidden(command, secret_options, environment, _prepare)
        except CannotHide as error:
            print(f"labkit: the server's secret is visible in the process list: {error}", file=sys.stderr, flush=True)
    return subprocess.Popen([*command, *secret_options], env=environment, preexec_fn=_prepare)


def end(server: subprocess.Popen[bytes], seconds: float, is_hurried: Callable[[], bool]) -> None:
    """End a server and the processes of its models: ask first, and kill after `seconds`, or as soon as `is_hurried` is true.

    When a server is killed, the processes of its models become children of this process.
    """
    patience = 0.0 if server.poll() is not None else CHILDREN_SECONDS
    if server.poll() is None:
        server.terminate()
        until = time.monotonic() + seconds
        while server.poll() is None and time.monotonic() < until and not is_hurried():
            time.sleep(LOOK_SECONDS)
    if server.poll() is None:
        server.kill()
        server.wait()
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=patience)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=5.0)


def _has_ended(server: subprocess.Popen[bytes]) -> bool:
    """Whether the server has ended. Also collects the exit status of other children, which would otherwise remain zombies."""
    while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if found.si_pid == server.pid:
            return server.poll() is not None
        os.waitpid(found.si_pid, 0)
    return False


def _prepare() -> None:
    """Called in the server's process before the server starts.

    This function makes the server die with the guardian, and keeps the server's files private to their user.
    """
    os.umask(0o077)
    _control_process(SET_PDEATHSIG, signal.SIGKILL)


def _give_large_stacks() -> None:
    """Give large stacks to the threads of the programs that this process starts.

    Changes nothing if reserved memory counts as used memory: on systems without overcommit, and if this process has a memory
    limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = min(STACK_BYTES, psutil.virtual_memory().total // 4, hard if hard != resource.RLIM_INFINITY else STACK_BYTES)
    counted = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if counted or any(limit != resource.RLIM_INFINITY for limit in limits):
        return
    if soft == resource.RLIM_INFINITY or wanted > soft:  # if there is no limit, glibc uses 2 MiB
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


def _control_process(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]), sys.argv[5:]))
