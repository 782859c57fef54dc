"""Folders of submissions for tests: small notebooks with one cheap exercise of lab 00."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from labkit.errors import NotAvailable
from labkit.exercises.registry import exercise
from labkit.grading.find_answer import answer_to
from labkit.grading.sandbox import need_sandbox

EXERCISE = exercise("lab00.kv_cache_bytes")
HEAD = "def kv_cache_bytes(config, lengths, element_bytes):\n    "
SOLVED = f"{HEAD}return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes"
STUB = f'{HEAD}raise NotImplementedError("kv_cache_bytes")'
HALF = f"{HEAD}return config.num_layers * config.hidden_size * sum(lengths) * element_bytes"
HALF_SAYS = next(
    mistake.message for mistake in answer_to(EXERCISE).mistakes if mistake.message.startswith("Your number is half")
)
"""The course's message about the planted mistake `HALF`."""


def notebook(*cells: str, text_cells: tuple[str, ...] = (), **more: Any) -> str:
    """The text of a notebook with these code cells, followed by these text cells."""
    rows = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    rows += [{"cell_type": "markdown", "source": cell, "metadata": {}} for cell in text_cells]
    return json.dumps({"cells": rows, "metadata": {}, "nbformat": 4, "nbformat_minor": 5} | more)


def write(path: Path, text: str) -> Path:
    """Make a file's folder, and write the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


@functools.cache
def has_sandbox() -> bool:
    """Whether this machine can make a sandbox."""
    try:
        need_sandbox()
    except NotAvailable:
        return False
    return True


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start `labkit grade`, with `--unsafe` if this machine has no sandbox."""
    return subprocess.Popen(
        [sys.executable, "-m", "labkit", "grade", *map(str, arguments), *([] if has_sandbox() else ["--unsafe"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
    )


def grade(*arguments: str | Path, status: int = 0) -> tuple[str, str]:
    """Run `labkit grade` to its end. Return its stdout and stderr."""
    process = start(*arguments)
    out, errors = process.communicate()
    assert process.returncode == status, errors
    return out, errors
