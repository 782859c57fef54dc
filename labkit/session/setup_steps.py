"""The steps of the set-up for the labs. The time of each step is measured on this machine or estimated."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from labkit.environment import Machine, find_versions
from labkit.errors import LabkitError
from labkit.exercises.titles import LAB_TITLES
from labkit.session.steps import Step, done, download, program, timed

TORCH_MEGABYTES = 200
"""The size of the download of a CPU build of torch, in MB."""
TORCH_NOTE = "a CUDA build is 3,000 MB"
OTHER_MEGABYTES = 590
"""The size of the download of all other packages that `make env` installs, in MB."""

ALL = tuple(LAB_TITLES)
START = {
    "00": "import ipywidgets, labkit.lab.lab00",
    "01": "import labkit.lab.lab01; from transformers import AutoModelForCausalLM",
    "02": "import labkit.lab.lab02",
    "03": "import labkit.lab.lab03",
    "04": "import tritonclient.grpc, labkit.lab.lab04",
    "05": "import labkit.lab.lab05",
    "06": "import labkit.lab.lab06",
    "07": "import labkit.lab.lab07",
    "08": "import labkit.lab.lab08",
}
"""The slow imports in each lab's first cell."""
IN_FIRST_CELL = "part of each lab's first cell"
FIRST_TOKEN = "import labkit; labkit.load('gptj-tiny').generate(['In'], labkit.SamplingParams(max_new_tokens=1))"


def setup_steps(machine: Machine, megabits: float, say: Callable[[str], object]) -> list[Step]:
    """Return all steps, in order.

    `megabits` is the speed of the network in Mbit per second; `say` is called with a line before each step.

    The call takes about a minute, most of it for compiling the CPU kernels.
    """
    makers: dict[str, Callable[[str], Step]] = {
        "download torch": lambda name: _package(name, "torch", TORCH_MEGABYTES, TORCH_NOTE, machine, megabits),
        "download the other packages": lambda name: _package(name, "transformers", OTHER_MEGABYTES, "", machine, megabits),
        "compile labkit's CPU kernels": _kernels,
        "get the Triton server": lambda name: _server(name, megabits),
        "start the Triton server": lambda name: timed(name, ("04",), _start_server, "part of lab 04", is_to_come=False),
        "start a notebook's kernel": lambda name: timed(name, ALL, _start_kernel),
        "import torch": lambda name: timed(name, ALL, _python("import torch"), IN_FIRST_CELL, is_to_come=False),
        "load gptj-tiny, make a token": lambda name: timed(name, ALL, _python(FIRST_TOKEN), "part of a lab", is_to_come=False),
    }
    makers |= {f"first cell of lab {lab}": partial(_first_cell, lab) for lab in START}
    found = []
    for number, (name, make) in enumerate(makers.items(), 1):
        say(f"[{number}/{len(makers)}] {name}")
        found.append(make(name))
    return found


def _package(name: str, package: str, megabytes: int, note: str, machine: Machine, megabits: float) -> Step:
    if package in machine.versions:
        return done(name, ALL, f"{package} {machine.versions[package]} is installed")
    return download(name, ALL, megabytes, megabits, note)


def _python(code: str) -> Callable[[], str]:
    return program([sys.executable, "-c", code])


def _first_cell(lab: str, name: str) -> Step:
    return timed(name, (lab,), _python(START[lab]))


def _kernels(name: str) -> Step:
    """Compile the CPU kernels.

    The step is timed even if the kernels are already installed, because machines that are not set up yet need this time.
    """
    is_done = False
    if find_versions(["torch"]):
        from labkit import native

        is_done = native.available()
    note = "already done here" if is_done else "once, when labkit is installed"
    return timed(name, ALL, _compile, note, is_to_come=not is_done)


def _compile() -> str:
    """Compile the kernels into a temporary folder. An installed library is not changed."""
    from labkit.native.build import BuildError, build

    with tempfile.TemporaryDirectory() as folder:
        try:
            build(Path(folder) / "native.so")
        except BuildError as error:
            return str(error).splitlines()[0]
    return ""


def _server(name: str, megabits: float) -> Step:
    from labkit.serving.server.install import DOWNLOAD_MEGABYTES, find_server

    if found := find_server():
        return done(name, ("04",), found.origin)
    return download(name, ("04",), DOWNLOAD_MEGABYTES, megabits, "`labkit serve --install`, on Linux")


def _start_server() -> str:
    from labkit.serving.server.install import find_server

    if find_server() is None:
        return "there is no Triton Inference Server yet"
    try:
        from labkit.exercises.lab04.on_server import LabServer

        LabServer().stop()
    except (LabkitError, OSError, ImportError) as error:
        return str(error)[:200]
    return ""


def _start_kernel() -> str:
    """Start a kernel, run one cell in it, and end it."""
    try:
        from nbformat import v4

        from labkit.grading.notebook_kernel import run_cells

        notebook = v4.new_notebook(cells=[v4.new_code_cell("1")])  # type: ignore[no-untyped-call]
        with tempfile.TemporaryDirectory() as folder:
            run_cells(notebook, Path(folder), timeout=300, kernel_name="python3")
    except Exception as error:  # Jupyter can be broken in many ways
        return f"{type(error).__name__}: {str(error).strip()[:200]}"
    return ""
