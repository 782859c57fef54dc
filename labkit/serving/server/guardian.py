"""Between a `Server` and its tritonserver: ends the server when told to, or when whoever started it is gone, however that
went, and clears away what is left. Run as `python -m labkit.serving.server.guardian PARENT FOLDER REGIONS COMMAND...`.
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
from pathlib import Path

import psutil

from labkit.serving.access import SECRET_FILE, restricting_options, withdraw_secret
from labkit.serving.server.hidden_arguments import CannotHide, start_hidden
from labkit.serving.server.own_folder import PID, REGIONS, delete_remains
from labkit.serving.server.private_regions import PrivateRegions

LOOK_SECONDS = 0.1
STOP_SECONDS = 20.0
CHILDREN_SECONDS = 2.0
"""For the processes of models to end by themselves after their server, when that was asked to end."""

STACK_BYTES = 2**30
"""Of each thread of the server, where the system allows it: tritonserver reads nested JSON by recursion, and lists the parts
of a body on the stack; with the usual 8 MiB a body of 150,000 brackets ends it. Only what is used takes memory."""

SIGNALLED = 128
"""What the exit status is more than the number of the signal that ended the server, as in a shell."""

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl


def main(parent: int, folder: Path, regions: str, command: list[str]) -> int:
    """Run the command until it ends, a SIGTERM comes, or process `parent` is gone; its exit status, 128 + n for signal n.

    command: NAME=VALUE of environment variables, then the program and its arguments. Where there is a file `folder/secret`,
    the server gets the options that close it with that secret. Writes the server's process id to `folder/pid`; deletes the
    server's run folder, the files of its secret, its shared memory, whose names begin with `regions`, and `folder` if nobody
    else is left to do it.
    """
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    _control_process(SET_CHILD_SUBREAPER, 1)
    (folder / REGIONS).write_text(regions)
    secret = _secret(folder)
    delete_remains(folder)  # of a server whose guardian was killed
    with contextlib.suppress(OSError, ValueError):
        _give_large_stacks()
    server = _start(command, restricting_options(secret) if secret else [])
    (folder / PID).write_text(str(server.pid))
    memory = PrivateRegions(regions)
    while not told and os.getppid() == parent and not _has_ended(server):
        memory.watch(LOOK_SECONDS)
    end(server)
    delete_remains(folder)
    withdraw_secret(folder)
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return server.returncode if server.returncode >= 0 else SIGNALLED - server.returncode


def _secret(folder: Path) -> str:
    """The server's; empty where it has none."""
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


def end(server: subprocess.Popen[bytes]) -> None:
    """End a server and the processes of its models: asked first, then killed; orphans of a killed one have come here."""
    patience = 0.0 if server.poll() is not None else CHILDREN_SECONDS
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
    if server.poll() is None:
        server.kill()
        server.wait()
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=patience)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=5.0)


def _has_ended(server: subprocess.Popen[bytes]) -> bool:
    """Whether the server has; the processes of its models that came here when a model's own one died are buried."""
    while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if found.si_pid == server.pid:
            return server.poll() is not None
        os.waitpid(found.si_pid, 0)
    return False


def _prepare() -> None:
    """In the server's process: killed when the guardian is; what it shares in memory and writes is for its user alone."""
    os.umask(0o077)
    _control_process(SET_PDEATHSIG, signal.SIGKILL)


def _give_large_stacks() -> None:
    """To the threads of whatever this process starts; not where memory that is only reserved counts as used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = min(STACK_BYTES, psutil.virtual_memory().total // 4, hard if hard != resource.RLIM_INFINITY else STACK_BYTES)
    counted = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    if counted or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    if soft == resource.RLIM_INFINITY or wanted > soft:  # without a limit, glibc takes 2 MiB
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


def _control_process(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
