"""Without the packages of labkit's extras, every command either runs or names the missing extra in one sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from labkit.cli import COMMANDS
from labkit.extras import EXTRA_OF, how_to_install
from tests.gradebook.test_board import chain, ladder

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.long
PROGRAM = """
import contextlib, io, json, os, sys
blocked, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class WithoutExtras:
    #A finder that does not see some packages.

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [WithoutExtras(finder) for finder in sys.meta_path]
from labkit.cli import _register, app
_register()
for arguments in commands:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(arguments, prog_name="labkit")
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            code, _ = repr(error), err.write("Traceback")
    print(json.dumps([arguments[0], code, out.getvalue()[-2000:], err.getvalue()[-2000:]]), file=sys.__stdout__, flush=True)
"""
SMALL = ["--prompt-tokens", "4", "--new-tokens", "2", "--rounds", "1", "--seconds", "0.1"]
CALLS: dict[str, list[str]] = {
    "doctor": ["doctor"],
    "fetch": ["fetch", "gptj-tiny"],
    "convert": ["convert", "gptj-tiny", "TARGET", "--format", "hf"],
    "compress": ["compress", "gptj-tiny", "--method", "int8", "--out", "COMPRESSED"],
    "export": ["export", "gptj-tiny", "--out", "EXPORTED"],
    "sensitivity": ["sensitivity", "gptj-tiny", "--windows", "1", "--window", "16", "--bits", "4"],
    "generate": ["generate", "In the beginning", "--max-new-tokens", "2", "--device", "cpu"],
    "evaluate": ["evaluate", "--window", "32", "--text", "TEXT", "--device", "cpu"],
    "bench": ["bench", *SMALL, "--device", "cpu"],
    "plan": ["plan", "--model", "gpt-20b", "--batch", "1,8"],
    "tune": ["tune", "--device", "cpu"],
    "serve": ["serve", "gptj-tiny", "--write-only", "--repository", "REPOSITORY"],
    "stress": ["stress", "127.0.0.1:1", "--users", "1", "--seconds", "0.1"],
    "check": ["check", str(ROOT / "labs/00_class_environment.ipynb")],
    "watch": ["watch", "--once", str(ROOT / "labs/00_class_environment.ipynb")],
    "reset": ["reset", "NOTEBOOK", "kv_cache_bytes"],
    "solution": ["solution", "kv_cache_bytes", "--give-up"],
    "ladder": ["ladder"],
    "board": ["board", "LADDER", "--out", "BOARD"],
    "grade": ["grade", "SUBMISSIONS", "--out", "GRADES", "--unsafe"],
    "release": ["release", "--check", "--folder", str(ROOT)],
    "tour": ["tour", "--course", str(ROOT)],
    "lab": ["lab", "--course", str(ROOT)],
}
NEED_NONE = {"doctor", "fetch", "convert", "generate", "evaluate", "bench", "serve", "check", "watch", "reset", "grade"}
NEED_NONE |= {"solution", "ladder", "board", "compress", "sensitivity", "plan"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, str, str]]:
    """The exit status, stdout and stderr of each command. All commands run in one process in which every extra is missing."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "text").write_text("In the beginning God created the heaven.")
    (folder / "submissions" / "ada").mkdir(parents=True)
    shutil.copy(ROOT / "labs/00_class_environment.ipynb", folder / "submissions" / "ada")
    shutil.copy(ROOT / "labs/00_class_environment.ipynb", folder / "notebook")
    (folder / "ladder").write_text(ladder("ada", *chain(10, 30)))
    names = ("TARGET", "TEXT", "REPOSITORY", "SUBMISSIONS", "GRADES", "NOTEBOOK", "LADDER", "BOARD", "COMPRESSED", "EXPORTED")
    places = {name: name.lower() for name in names}
    calls = [[str(folder / places[word]) if word in places else word for word in call] for call in CALLS.values()]
    command = [sys.executable, "-c", PROGRAM, json.dumps(sorted(EXTRA_OF)), json.dumps(calls)]
    environment = os.environ | {"LABKIT_HOME": str(folder / "home")}  # `labkit solution --give-up` is recorded in this home
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (code, out, err) for name, code, out, err in rows}


def test_every_command_is_tried() -> None:
    assert set(CALLS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_extras(outcomes: dict[str, tuple[Any, str, str]], name: str) -> None:
    code, _, err = outcomes[name]
    assert "Traceback" not in err
    if name == "bench":
        assert "hf needs the package transformers; install labkit with its extra" in err
    if name in NEED_NONE:
        assert code == 0, err
        return
    assert code == 1, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("labkit: ")
    assert name == "tune" or re.search(r"extra '(graphs|lab|serve|peers)'|`make env`", last), last


def test_no_advice_installs_labkit_by_its_name() -> None:
    """On a public package index, the name may belong to a foreign package."""
    files = [
        *(ROOT / "labkit").rglob("*.py"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
        *(ROOT / "labs").glob("*.ipynb"),
    ]
    by_name = re.compile(r"pip install (-\S+ )*['\"]?labkit\b(?![/.-])")
    assert [file.name for file in files if by_name.search(file.read_text("utf-8"))] == []
    assert "pip install -e '.[serve]'" in how_to_install("serve")
    assert "WHEEL[serve]" in how_to_install("serve")


def test_every_package_of_the_extras_is_known() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    imported_as = {"nvidia_ml_py": "pynvml"}
    for extra in ("lab", "gpu", "graphs", "serve", "grade", "peers"):
        for requirement in extras[extra]:
            name = re.match(r"[\w-]+", requirement)
            assert name
            package = name[0].replace("-", "_")
            if package != "labkit":
                assert imported_as.get(package, package) in EXTRA_OF, f"{package} of the extra {extra}"
