"""The learner's first hour: `README.md` and `docs/learner.md`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.first_hour.conftest import Course
from tests.first_hour.machine import Machine, end
from tests.first_hour.pages import ROOT, block, command, in_table
from tests.patience import wait_for

pytestmark = pytest.mark.long

PAGE = "docs/learner.md"
LAB = "labs/00_class_environment.ipynb"
MAKE_LAB = command("README.md", "make lab")
STUB = '    raise NotImplementedError("parameter_count")'
ANSWER = """\
    h, i, layers, vocab = config.hidden_size, config.intermediate_size, config.num_layers, config.vocab_size
    return layers * (2 * h + 4 * h * h + 2 * h * i + i + h) + 2 * vocab * h + vocab + 2 * h
"""
BUSY = "import socket, time; held = socket.create_server(('127.0.0.1', 8888)); print('held', flush=True); time.sleep(9999)"


def test_the_set_up_shows_its_steps_and_an_end(course: Course) -> None:
    steps = re.findall(r"^\[(\d)/(\d)\]", course.set_up, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 1 + int(steps[0][1])))
    assert re.search(r"^Done: \d+\.\d+\.\d+ in \.venv$", course.set_up, re.MULTILINE)
    assert course.machine.run("make env") == ""  # the environment is up to date


def test_without_a_compiler_the_machine_is_described_with_what_to_do(course: Course) -> None:
    row = course.doctor.split("labkit's CPU kernels")[1].split("│ memory")[0]  # a row of a table with wrapped lines
    assert "not used: it was not built" in row
    assert "labkit.native.build" in row
    assert ".venv/bin/python -m labkit.native.build" in (ROOT / PAGE).read_text("utf-8")


def test_make_lab_twice_on_a_busy_port(course: Course, tmp_path: Path) -> None:
    """JupyterLab takes the next port, and a second call finds JupyterLab there. `test_odd_machines.py` uses the usual port."""
    machine = course.machine
    started = []
    try:
        started.append(machine.start(f'.venv/bin/python -c "{BUSY}"', tmp_path / "busy"))
        wait_for(lambda: (tmp_path / "busy").read_text(), "a process that holds port 8888")
        started.append(machine.start(MAKE_LAB, tmp_path / "log"))
        port, token = wait_for_address(tmp_path / "log")
        assert port != "8888"
        assert "This machine" in (tmp_path / "log").read_text().partition("JupyterLab starts")[0]
        second = machine.run(MAKE_LAB)
        address = f"http://127.0.0.1:{port}/lab/tree/{LAB}?token={token}"
        assert f"JupyterLab is already running here: {address}" in second
        assert machine.run(f"curl -sL -o {tmp_path}/page -w '%{{http_code}}' '{address}' -c {tmp_path}/jar") == "200"
        answer = machine.run(f"curl -s 'http://127.0.0.1:{port}/api/contents/labs?token={token}'")
        assert {one["name"] for one in json.loads(answer)["content"]} >= {path.name for path in (ROOT / "labs").glob("*.ipynb")}
    finally:
        for process in started:
            end(process)


def wait_for_address(log: Path) -> tuple[str, str]:
    """Wait until JupyterLab prints its address. Return its port and its token."""
    found = wait_for(lambda: re.search(r"http://127\.0\.0\.1:(\d+)/\S*token=(\w+)", log.read_text()), "JupyterLab's address")
    return found[1], found[2]


def test_the_commands_without_a_notebook(course: Course, tmp_path: Path) -> None:
    machine = course.machine
    commands = in_table(PAGE, ".venv/bin/labkit ")
    assert len(commands) == 5
    notebook = machine.folder / LAB
    untouched = notebook.read_text("utf-8")
    content = json.loads(untouched)
    (cell,) = (cell for cell in content["cells"] if STUB in "".join(cell["source"]))
    cell["source"] = "".join(cell["source"]).replace(STUB, ANSWER.rstrip())
    notebook.write_text(json.dumps(content), "utf-8")
    try:
        said = {line.split()[1]: run_one(machine, line, tmp_path / "log") for line in commands}
        assert "0.1 Count the parameters: passed, 10/10 points" in said["check"]
        assert "0.2 The weights in GiB: not attempted" in said["check"]
        assert "parameter_count is the stub again" in said["reset"]
        assert "Count the parameters" in said["watch"]
        assert "Class environment" in said["doctor"]
        assert re.search("ladder|new tokens", said["ladder"])  # empty, or with the rungs of a notebook that ran before
        assert STUB in "".join("".join(cell["source"]) for cell in json.loads(notebook.read_text("utf-8"))["cells"])
    finally:
        notebook.write_text(untouched, "utf-8")


def run_one(machine: Machine, line: str, log: Path) -> str:
    """Run a command of the table and return its output. `watch` is ended with Ctrl-C after its first verdicts."""
    line = line.replace("labs/NOTEBOOK", LAB).replace("EXERCISE", "parameter_count")
    if " watch " not in line:
        return machine.run(line)
    watching = machine.start(line, log)
    try:
        wait_for(lambda: "waiting for a change" in log.read_text(), "the first verdicts of `labkit watch`")
        return log.read_text()
    finally:
        end(watching, signal.SIGINT)  # Ctrl-C


def test_a_notebook_is_worked_on(course: Course) -> None:
    """Run the calls of the section "Work on a lab" after the lab's import cell, with `parameter_count` for `my_function`."""
    section = (ROOT / PAGE).read_text("utf-8").split("## Work on a lab")[1].split("\n## ")[0]
    calls = re.findall(r"`((?:check|hint|reset|solution|submit)\([a-z_]*\))`", section)
    assert calls == [*(f"{name}(my_function)" for name in ("check", "hint", "reset", "solution")), "submit()"]
    notebook = json.loads((course.machine.folder / LAB).read_text("utf-8"))
    imports = next("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    stub = next("".join(cell["source"]) for cell in notebook["cells"] if STUB in "".join(cell["source"]))
    wrong = stub.replace(STUB, "    return 1")
    right = stub.replace(STUB, ANSWER)
    check, hint, _, solution, _ = (call.replace("my_function", "parameter_count") for call in calls)
    code = "\n".join([imports, wrong, hint, check, right, check, solution])
    file = course.machine.folder / "worked.py"
    file.write_text(code, "utf-8")
    said = course.machine.run(".venv/bin/python worked.py")
    assert "Hint 1 of 3 for 0.1" in said
    assert re.search(r"0\.1 Count the parameters: failed.*0\.1 Count the parameters: passed", said, re.DOTALL), said
    assert (course.machine.home / ".labkit" / "progress.json").is_file()


def test_a_notebook_is_printed(course: Course, tmp_path: Path) -> None:
    to_html, to_pdf = block(PAGE, "nbconvert").splitlines()
    course.machine.run(to_html)
    page = (course.machine.folder / LAB).with_suffix(".html")
    assert "Class environment" in page.read_text("utf-8")
    if not shutil.which("chromium"):
        pytest.skip("not measured here: no chromium; the page was made")
    no_sandbox = "chromium --no-sandbox" if os.geteuid() == 0 else "chromium"  # as root, Chromium has no sandbox
    course.machine.run(to_pdf.replace("chromium", no_sandbox))
    assert (course.machine.folder / "lab00.pdf").read_bytes().startswith(b"%PDF")
