"""`labkit watch` as a person with an editor uses it: the file is saved several times, and Ctrl-C ends the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE, end_or_kill, wait_for

RIGHT = """
def kv_cache_bytes(config, lengths, element_bytes):
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes
"""
WRONG = RIGHT.replace("2 *", "1 *")
STUB = """
def weight_gib(parameters, precision, group_size):
    raise NotImplementedError("weight_gib")
"""


def save(path: Path, *sources: str) -> None:
    """Save a notebook as JupyterLab does: a new file replaces the old one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source} for source in sources]}))
    new.replace(path)


class Watching:
    """A running `labkit watch`, and what it has written since the last call of `next_round`."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, errors: Path) -> None:
        self.process, self.out, self.errors = process, out, errors
        self._out_read, self._errors_read, self._rounds = 0, 0, 0

    def next_round(self) -> tuple[str, list[str]]:
        """Wait until the command waits for a change again. Return its new output and the numbers of the checked exercises."""
        self._rounds += 1
        waits = "waiting for a change"
        wait_for(
            lambda: self.process.poll() is not None or self.errors.read_text().count(waits) == self._rounds,
            f"the end of round {self._rounds}",
        )
        out, errors = self.out.read_text(), self.errors.read_text()
        fresh, fresh_errors = out[self._out_read :], errors[self._errors_read :]
        self._out_read, self._errors_read = len(out), len(errors)
        return fresh + fresh_errors, [line.split()[0] for line in fresh_errors.splitlines() if line.startswith("  0.")]


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    path = tmp_path / "lab.ipynb"
    save(path, WRONG, STUB)
    return path


@pytest.fixture
def watching(notebook: Path, tmp_path: Path) -> Iterator[Watching]:
    out, errors = tmp_path / "out", tmp_path / "errors"
    with out.open("w") as to_out, errors.open("w") as to_errors:
        command = [sys.executable, "-m", "labkit", "watch", str(notebook), "--json"]
        environment = os.environ | {"LABKIT_HOME": str(tmp_path / "home")}
        process = subprocess.Popen(command, stdout=to_out, stderr=to_errors, env=environment)
    yield Watching(process, out, errors)
    process.terminate()
    end_or_kill(process)


def test_each_save_checks_what_has_changed_until_ctrl_c(watching: Watching, notebook: Path) -> None:
    said, checked = watching.next_round()
    assert checked == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]
    assert "✗ 0.3 The size of the cache: failed" in said
    assert "0 of 65 points for the present code of" in said

    save(notebook, "# a remark", f"print('not needed')\n# another remark{RIGHT}", STUB)
    said, checked = watching.next_round()
    assert checked == ["0.3"]
    assert "✓ 0.3 The size of the cache: passed, 10/10 points" in said
    assert "10 of 65 points" in said

    save(notebook, f"# a remark{RIGHT}", STUB)
    said, checked = watching.next_round()
    assert checked == []
    assert "no function has changed" in said
    assert "10 of 65 points" in said

    notebook.write_text('{"cells": [')
    said, checked = watching.next_round()
    assert checked == []
    assert "is not a notebook" in said

    save(notebook, RIGHT, "def weight_gib(:")
    said, checked = watching.next_round()
    assert checked == ["0.2"]
    assert "Cell 2 is left out, because Jupyter cannot run it" in said

    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(PATIENCE) == 0
    report = json.loads(watching.out.read_text().splitlines()[-1])
    assert (report["points"], report["out_of"], report["core_points"], report["core_out_of"]) == (10, 65, 10, 55)
    assert [row["verdict"] for row in report["exercises"] if row["exercise"] == "lab00.kv_cache_bytes"] == ["passed"]
    assert watching.errors.read_text().splitlines()[-1] == "stopped"
