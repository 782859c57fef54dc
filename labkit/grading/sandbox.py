"""A sandbox for the worker that runs a learner's function. It uses bubblewrap, which is based on the kernel's namespaces.

In the sandbox there is no network except the sandbox's own loopback, and processes outside cannot be seen. The only files are
the programs and libraries that the worker needs: the system, this Python, and labkit without its answers. They are read-only.
Files that a learner's code writes are kept in memory of limited size, and are lost at the end. When the first process
of the sandbox ends, all its other processes end, too.

The sandbox does not protect against a fault of the kernel itself, against reading of the machine's programs and libraries, or
against heavy use of processor, memory bandwidth and caches, which slows other programs down.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import labkit
from labkit.errors import NotAvailable

HIDDEN = ("answers", "exercises/stubs/own_stages")
"""The folders of labkit with answers, which are empty in the sandbox."""
SCRATCH_BYTES, SHARED_BYTES = 2**30, 2 * 2**30
"""The sizes of the folders /tmp and /dev/shm in the sandbox, which are in memory."""
NOBODY, HOST_NAME = 65534, "sandbox"
SCRATCH, WORK = ("/tmp", "/dev/shm"), "/tmp/work"
"""The folders of the sandbox in which files can be written, and the folder in which a program starts."""
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt")
_OF_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "hosts",
    "nsswitch.conf",
    "passwd",
    "group",
    "localtime",
)
_OF_SYS = ("/sys/devices/system", "/sys/fs/cgroup")
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Sandbox:
    """Runs a command in a sandbox. `program` is the path of bubblewrap."""

    program: str

    def command(self, inner: Sequence[str], readable: Iterable[Path] = (), needs: Sequence[str] = ()) -> list[str]:
        """The command that runs `inner` in a new sandbox, in an empty folder, as nobody.

        `readable` are files and folders that are visible at their own paths, read-only. `needs` are the folders of `HIDDEN`
        that `inner` needs, so they are not hidden. Open file descriptors are passed on.
        """
        # bubblewrap itself is the first process of the sandbox, and /proc/1/environ shows its environment at the start. So the
        # environment is emptied before bubblewrap starts: it can contain the secret of the seeds.
        given = ["/usr/bin/env", "-i", *(f"{name}={os.environ[name]}" for name in _PASSED_ON if name in os.environ)]
        given += ["HOME=/tmp", "LABKIT_HOME=/tmp/labkit", self.program]
        given += ["--unshare-all", "--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", HOST_NAME]
        given += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        for place in (*_SYSTEM, *(f"/etc/{name}" for name in _OF_ETC), *_OF_SYS):
            given += _as_it_is(Path(place))
        given += ["--dev", "/dev", "--size", str(SHARED_BYTES), "--tmpfs", "/dev/shm", "--proc", "/proc"]
        given += ["--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"]
        package = str(Path(labkit.__file__).parent)
        for path in (sys.prefix, sys.base_prefix, *_outside_of_python(), package, *map(str, readable)):
            given += ["--ro-bind", path, path]
        for folder in HIDDEN:
            given += [] if folder in needs else ["--tmpfs", f"{package}/{folder}"]
        return [*given, "--dir", WORK, "--chdir", WORK, "--", *inner]


def is_inside() -> bool:
    """Whether this process runs in a sandbox of this module."""
    return os.getuid() == NOBODY and socket.gethostname() == HOST_NAME and str(Path.home()) == SCRATCH[0]


def _as_it_is(place: Path) -> list[str]:
    """Options that make a system path visible in the sandbox: as a link if it is a link, otherwise as a read-only path."""
    if place.is_symlink() and len(place.parts) == 2:
        return ["--symlink", os.readlink(place), str(place)]
    return ["--ro-bind", str(place), str(place)] if place.exists() else []


def _outside_of_python() -> list[str]:
    """The folder of the real Python program, if it is outside of this Python's own folders and the system's."""
    real = Path(sys.executable).resolve()
    known = (sys.prefix, sys.base_prefix, *_SYSTEM)
    return [] if any(real.is_relative_to(folder) for folder in known) else [str(real.parents[1])]


def need_sandbox() -> Sandbox:
    """A sandbox that works on this machine. If there is none, raises `NotAvailable` with the reason."""
    program = shutil.which("bwrap")
    if program is None:
        raise NotAvailable(
            "there is no bubblewrap (bwrap) on this machine, which keeps learners' code away from your files; install it "
            "(apt-get install bubblewrap), or give --unsafe to run their code as your own user"
        )
    return _tried(program)


@functools.cache
def _tried(program: str) -> Sandbox:
    """A sandbox in which a program has run. If none can run, raises `NotAvailable`; the next call tries again.

    Only a success is cached, because `functools.cache` keeps no exceptions. A failure can be temporary, for example if the
    machine has no free memory.
    """
    if problem := _problem(program):
        raise NotAvailable(
            f"bubblewrap cannot make a sandbox here: {problem}. A container needs the right to make namespaces for this "
            "(docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined). Or give --unsafe to run "
            "learners' code as your own user"
        )
    return Sandbox(program)


def _problem(program: str) -> str:
    """Why a sandbox does not work on this machine; "" if it works."""
    command = Sandbox(program).command([sys.executable, "-c", "pass"])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
