"""Between a `Server` and its tritonserver: ends the server when told to, or when whoever started it is gone, however that
went, and clears away what is left. Run as `python -m labkit.serving.guardian PARENT FOLDER REGIONS COMMAND...`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from labkit.serving.access import SECRET_FILE, restricting_options, withdraw_secret
from labkit.serving.hidden_arguments import CannotHide, start_hidden
from labkit.serving.private_regions import PrivateRegions
from labkit.serving.run_folder import run_folder

LOOK_SECONDS = 0.1
STOP_SECONDS = 20.0
CHILDREN_SECONDS = 2.0
"""For the processes of models to end by themselves behind their server."""

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl


def main(parent: int, folder: Path, regions: str, command: list[str]) -> int:
    """Run the command until it ends, a SIGTERM comes, or process `parent` is gone; its exit status.

    command: NAME=VALUE of environment variables, then the program and its arguments. Where there is a file `folder/secret`,
    the server gets the options that close it with that secret. Writes the server's process id to `folder/pid`; deletes
    `folder`, the server's run folder, the files of its secret, and its shared memory, whose names begin with `regions`.
    """
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    _control_process(SET_CHILD_SUBREAPER, 1)
    secret = _secret(folder)
    server = _start(command, restricting_options(secret) if secret else [])
    (folder / "pid").write_text(str(server.pid))
    memory = PrivateRegions(regions)
    while not told and os.getppid() == parent and not _has_ended(server):
        memory.watch(LOOK_SECONDS)
    end(server)
    for region in Path("/dev/shm").glob(f"{regions}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(run_folder(server.pid), ignore_errors=True)
    withdraw_secret(folder)
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return server.returncode


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
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
    if server.poll() is None:
        server.kill()
        server.wait()
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=CHILDREN_SECONDS)
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


def _control_process(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
