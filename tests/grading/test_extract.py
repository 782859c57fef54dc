"""Functions out of a notebook: the last of a name counts, one broken cell spoils itself only, nothing is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest
from labkit.grading.extract import defined_functions, definitions
from labkit.grading.worker import define


def notebook(path: Path, *cells: str | list[str], markdown: str = "") -> Path:
    rows: list[dict[str, Any]] = [{"cell_type": "code", "source": cell} for cell in cells]
    rows.append({"cell_type": "markdown", "source": markdown})
    path.write_text(json.dumps({"cells": rows}))
    return path


def names_of(path: Path) -> dict[str, Any]:
    """What the notebook's definitions give when they are run."""
    scope: dict[str, Any] = {}
    define(definitions(path), scope)
    return scope


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lab.ipynb"


def test_definitions_imports_and_constants_are_kept_and_the_rest_is_left_aside(path: Path) -> None:
    notebook(
        path,
        ["import math\n", "from math import tau\n", "LIMIT: int = 3\n", "BITS = {'fp16': 16}\n"],
        "raise SystemExit\nprint('never')\nopen('/nonexistent')\nanswer = slow_call()\nmodel.config.pad = 0\nrows[0] = 5",
        "@staticmethod\ndef f(x):\n    return math.floor(x) + LIMIT + BITS['fp16']\n\nclass Shape:\n    size = 4\n",
        markdown="def g():\n    pass",
    )
    scope = names_of(path)
    assert scope["f"](2.5) == 21
    assert scope["Shape"].size == 4
    assert "answer" not in scope
    assert defined_functions(definitions(path)) == {"f"}


def test_the_last_of_a_name_wins_wherever_its_cell_was_moved(path: Path) -> None:
    notebook(
        path,
        "def f():\n    return 1",
        "K = 1",
        "def f():\n    return 2 * K",
        "K = 10",
        "def g(): return f() + 1",
        "def g(): return f()",
    )
    scope = names_of(path)
    assert (scope["f"](), scope["g"]()) == (20, 20)


def test_a_broken_cell_spoils_itself_only(path: Path) -> None:
    notebook(
        path,
        "def a(): return 1",
        "def b( return 2",
        "\x00",
        "(" * 5000,
        "def needs(x=undefined_name): return x",
        "import a_package_that_does_not_exist",
        "class Loud:\n    raise SystemExit(0)",
        "from __future__ import annotations\ndef c() -> Undefined: return 3",
    )
    scope: dict[str, Any] = {}
    failed = define(definitions(path), scope)
    assert (scope["a"](), scope["c"]()) == (1, 3)
    assert failed["needs"] == "NameError: name 'undefined_name' is not defined"
    assert failed["Loud"] == "SystemExit: 0"
    assert failed["import a_package_that_does_not_exist"].startswith("ModuleNotFoundError")
    assert defined_functions(definitions(path)) == {"a", "needs", "c"}


def test_magics_are_left_out_and_the_operator_stays(path: Path) -> None:
    notebook(
        path,
        "%matplotlib inline\n!pip list\n?print\ndef a():\n    return 1",
        "def b(total, size):\n    return (total\n            % size)",
        "%%time\ndef c():\n    return 3",
        "%%timeit\ndef d():\n    return 4",
        "%%writefile other.py\ndef e():\n    return 5",
        "%%bash\ndef f():\n    return 6",
    )
    scope = names_of(path)
    assert scope["b"](17, 5) == 2
    assert (scope["a"](), scope["c"]()) == (1, 3)
    assert defined_functions(definitions(path)) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"cells": 5}', '{"cells": [5]}', '{"cells": [{"cell_type": "code", "source": null}]}'],
)
def test_what_is_no_notebook_is_refused_by_name(text: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"lab\.ipynb is no notebook"):
        definitions(path)
    with pytest.raises(InvalidRequest, match=r"gone\.ipynb is no notebook"):
        definitions(path.with_name("gone.ipynb"))


def test_an_empty_notebook_defines_nothing(path: Path) -> None:
    assert definitions(notebook(path, "", [])) == ""
    assert defined_functions("") == set()
