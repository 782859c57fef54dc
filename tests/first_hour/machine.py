"""A copy of the repository as a newcomer has it, and the commands that run in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.first_hour.pages import ROOT
from tests.library.bare import PYTHON, link_server
from tests.patience import PATIENCE

NOT_COPIED = (".venv", "build", "dist", ".git", ".*_cache", "__pycache__", "*.egg-info", "_native.so", "submitted")
KERNELS = Path("labkit", "native", "_native.so")
FORGOTTEN = ("PYTHON", "PIP_", "LABKIT", "JUPYTER", "XDG_", "VIRTUAL_ENV", "DISPLAY", "WAYLAND", "MAKE", "MFLAGS")
"""The beginnings of the names of environment variables that a newcomer does not have."""

DOWNLOADS_NOTHING = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull}
"""With these variables, pip only uses installed packages, also for builds. (pip reads the 0 as a wish to switch build isolation
off.)
"""
NO_COMPILER = {"CXX": "no-compiler"}
READS_ALL = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
"""Options of `setpriv` that let the user read everything, because the Python that runs the tests may be in root's home
directory.
"""
ORDINARY = 12345
"""The id of a user who owns no files and has no name."""


@dataclass(frozen=True)
class Machine:
    """A folder with a course, a home directory, and `before`: words put before a command to run it as another user or in
    another network.
    """

    folder: Path
    home: Path
    before: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a newcomer."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FORGOTTEN)}
        return kept | {"HOME": str(self.home), "COLUMNS": "150", "BROWSER": "true"} | self.more

    def start(self, line: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a line of the documentation in a process group of its own, with its output in a file."""
        with log.open("wb") as file:
            return subprocess.Popen(
                [*self.before, "bash", "-c", line],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, line: str, status: int = 0) -> str:
        """Run a line of the documentation and return its output. Fail the test if the exit status is not `status`."""
        process = subprocess.run(
            [*self.before, "bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3 * PATIENCE,
            check=False,
        )
        assert process.returncode == status, f"{line}\nstatus {process.returncode}, expected {status}\n{process.stdout[-4000:]}"
        return process.stdout


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to a process that `start` started and to its children, so that they end. Kill them if they do not end."""
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, how)
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


NO_NETWORK_OF_ITS_OWN = "not measured here: no network of its own can be made (unshare, nsenter and ip)"


# The network ----------------------------------------------------------------------------------------------------------
@contextmanager
def loopback_alone() -> Iterator[tuple[str, ...]]:
    """Make a network that consists only of loopback, on which all ports are free. A process keeps it while the block runs.

    Yields the words to put before a command to run it in this network. They are empty if this machine cannot make a network.
    """
    own = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    script = "ip link set lo up && echo up && exec sleep infinity"
    try:
        keeper = subprocess.Popen(["unshare", "--net", *own, "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    except OSError:
        yield ()
        return
    try:
        assert keeper.stdout is not None
        enter = ("nsenter", f"--target={keeper.pid}", "--net", *(("--user", "--preserve-credentials") if own else ()))
        yield enter if keeper.stdout.readline() else ()
    finally:
        keeper.kill()
        keeper.wait()


# The copy -------------------------------------------------------------------------------------------------------------
def copy_repository(folder: Path) -> None:
    """Copy the files of the repository, without build outputs."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))


def copy_set_up(folder: Path) -> None:
    """Copy the few files that the set-up reads."""
    shutil.copytree(ROOT / "environment", folder / "environment")
    for name in ("labkit/native/src", "labkit/native/build.py", "labkit/serving/server/server_requirements.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    for name in ("pyproject.toml", "setup.py", "Makefile"):
        shutil.copy(ROOT / name, folder)


def packages_without_downloads(environment: Path) -> None:
    """Make a virtual environment without labkit whose packages are links to those of the environment that runs the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    here, there = Path(sysconfig.get_path("purelib")), environment / "lib" / PYTHON / "site-packages"
    for entry in here.iterdir():
        if "labkit" not in entry.name and entry.name != "__pycache__":
            (there / entry.name).symlink_to(entry)
    for program in (Path(sys.prefix) / "bin").iterdir():
        if program.is_file() and program.read_bytes()[:2] == b"#!" and program.name != "labkit":
            copy_program(program, environment / "bin" / program.name)
    copy_data(environment)
    link_server(environment)


def environment_with_pip(environment: Path) -> None:
    """Make a virtual environment with only pip, which is a link to the pip of the environment that runs the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (environment / "lib" / PYTHON / "site-packages" / "pip").symlink_to(Path(sysconfig.get_path("purelib")) / "pip")


def copy_program(program: Path, target: Path) -> None:
    """Copy a program of an environment so that it runs with another environment's Python. Its path can have spaces."""
    lines = program.read_text("utf-8").split("\n")
    if "python" in lines[0]:
        lines[0] = f"#!/bin/sh\n'''exec' \"{target.parent / 'python'}\" \"$0\" \"$@\"\n' '''"
    target.write_text("\n".join(lines).replace(f"'''exec' \"{sys.prefix}/bin/python", f"'''exec' \"{target.parent}/python"))
    target.chmod(0o755)


def copy_data(environment: Path) -> None:
    """Copy settings, and link the files of JupyterLab. The set-up writes into the folders that are not links here."""
    prefix = Path(sys.prefix)
    shutil.copytree(prefix / "etc", environment / "etc", dirs_exist_ok=True)
    for folder in ("share", "share/jupyter", "share/jupyter/lab"):
        (environment / folder).mkdir(exist_ok=True)
        for entry in (prefix / folder).iterdir():
            place = environment / folder / entry.name
            if f"{folder}/{entry.name}" not in ("share/jupyter", "share/jupyter/lab", "share/jupyter/lab/settings"):
                place.symlink_to(entry)


def use_built_kernels(course: Path) -> bool:
    """Give the copy the native library of this repository, if it is built: compiling takes more than a minute."""
    if (ROOT / KERNELS).exists():
        shutil.copy(ROOT / KERNELS, course / KERNELS)
    return (ROOT / KERNELS).exists()
