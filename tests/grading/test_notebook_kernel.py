"""The Jupyter kernel that the tour and a release use communicates over Unix sockets and prints no warning."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import zmq

from labkit.grading.notebook_kernel import _connection, run_cells

CELLS = [
    "import os; from ipykernel.connect import get_connection_file as file; print(os.getcwd()); print(file())",
    "print(open(file()).read())",
]


@pytest.mark.skipif(not zmq.has("ipc"), reason="not measured here: this system has no Unix sockets")
def test_a_kernel_uses_unix_sockets_and_prints_no_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    run_cells(notebook, tmp_path, timeout=600, kernel_name="python3")
    first, second = ("".join(output.text for output in cell.outputs) for cell in notebook.cells)
    folder, connection = first.splitlines()
    assert folder == str(tmp_path)
    assert '"transport": "ipc"' in second
    assert not Path(connection).parent.exists()
    assert "encrypt" not in capfd.readouterr().err


def test_without_unix_sockets_a_kernel_uses_tcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.gettempdir())
    assert bool(_connection(short)) == zmq.has("ipc")
    assert _connection(tmp_path / ("long" * 30)) == {}
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    assert _connection(short) == {}


DRAWS = "def draw(n=3):\n    for _ in range(3):\n        display(HTML('x' * 300_000))"


def test_cells_with_interact_do_not_wait_for_their_time_limit(tmp_path: Path) -> None:
    """nbclient alone misses the end of some of these cells, and then waits until the time limit."""
    cells = [
        f"from IPython.display import HTML, display\nfrom ipywidgets import interact\n{DRAWS}",
        *["interact(draw, n=(1, 9))"] * 40,
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    run_cells(notebook, tmp_path, timeout=100, kernel_name="python3")
    assert all(cell.outputs for cell in notebook.cells[1:])


RUNS_FOR_EVER = """
import nbformat, pathlib
from labkit.grading.notebook_kernel import run_cells

cell = nbformat.v4.new_code_cell("import os, time; print(os.getpid(), file=open('pid', 'w')); time.sleep(1000)")
run_cells(nbformat.v4.new_notebook(cells=[cell]), pathlib.Path(), timeout=900, kernel_name="python3")
"""


def test_ctrl_c_ends_the_kernel_and_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUNS_FOR_EVER]
    program = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while program.poll() is None and not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n")):
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate()
    assert (program.returncode, "\nKeyboardInterrupt\n" in errors) == (-signal.SIGINT, True), errors
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
