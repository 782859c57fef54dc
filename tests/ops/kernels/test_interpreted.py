"""Runs the tests in `interpreted/` in one process with Triton's interpreter. Each file of that folder is one test here."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from labkit.ops.kernels.triton_runtime import INSTALLED

FOLDER = Path(__file__).parent / "interpreted"
ROOT = Path(__file__).parents[3]

BROKEN = INSTALLED and version("triton").startswith("3.6.") and version("numpy") >= "2.4"
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="not measured here: the package triton is not installed"),
    pytest.mark.skipif(BROKEN, reason="not measured here: Triton 3.6's interpreter cannot loop up to a tensor with numpy 2.4"),
]


@pytest.fixture(scope="session")
def interpreted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Counter[tuple[str, str]]]:
    """Run the process that interprets kernels. Return its output, and the number of tests by file and outcome.

    The process gets the `-m` option of this run, so it leaves out the same tests.
    """
    report = tmp_path_factory.mktemp("interpreted") / "report.xml"
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-p", "pytest_timeout", "--junitxml", str(report)]
    command += ["-m", request.config.option.markexpr]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes: Counter[tuple[str, str]] = Counter()
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        kinds = {part.tag for part in case} & {"failure", "error", "skipped"}
        outcomes[case.get("classname", "").rsplit(".", 1)[-1], kinds.pop() if kinds else "passed"] += 1
    return ran.stdout + ran.stderr, outcomes


@pytest.mark.parametrize("file", sorted(path.stem for path in FOLDER.glob("test_*.py")))
def test_in_the_interpreter(file: str, interpreted: tuple[str, Counter[tuple[str, str]]]) -> None:
    said, outcomes = interpreted
    found = {kind: count for (name, kind), count in outcomes.items() if name == file}
    assert set(found) == {"passed"}, f"{file}: {found or 'no test ran'}\n{said}"
