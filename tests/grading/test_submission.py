"""A notebook as a submission: which parts of it are read, and which of its code a function needs. No code runs while a notebook
is read.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest, NotAvailable
from labkit.grading import notebook_file
from labkit.grading.run_statements import define
from labkit.grading.submission import Submission, read_submission, submission_of

RIGHT = "def f():\n    return 5"


def write(path: Path, *cells: str | list[str], **more: Any) -> Path:
    rows = [{"cell_type": "code", "source": cell} for cell in cells]
    path.write_text(json.dumps({"cells": rows} | more))
    return path


def lines_for(name: str, *cells: str) -> list[str]:
    """The first lines of the code that a function needs."""
    found = []
    for piece in submission_of(*cells).needed_for(name):
        lines = piece.source.splitlines()
        found += [lines[ast.parse(piece.source).body[place].lineno - 1] for place in piece.statements]
    return found


def value_of(name: str, submission: Submission) -> Any:
    scope: dict[str, Any] = {"__name__": "__main__"}
    assert define(submission.needed_for(name), scope) == []
    return scope[name]()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lab.ipynb"


# What a function needs ---------------------------------------------------------------------------------------------------
def test_what_a_function_does_not_need_is_left_out() -> None:
    cells = [
        "import os, torch\nfrom math import floor",
        "model = slow_call()\nplots = model.draw()\nprint(floor(K))\ncheck(f)\nif passed(f):\n    big = f() + 1",
        "K: int = 3\nTABLE = {}",
        "TABLE['k'] = K\nother = {}\nother['k'] = 2",
        "def unused():\n    return model\n\nfor title in names:\n    print(title)",
        "def f(x):\n    title = x\n    return floor(title) + TABLE['k']",
        "f(2.5)\ninteract(f)\nassert f(1) == 2",
    ]
    assert lines_for("f", *cells) == [
        "from math import floor",
        "K: int = 3",
        "TABLE = {}",
        "TABLE['k'] = K",
        "def f(x):",
    ]
    assert lines_for("nothing", *cells) == []


def test_of_a_function_that_was_written_anew_the_old_one_is_not_run() -> None:
    assert lines_for("f", "model = slow()", "def f():\n    return model", "def f():\n    return 1") == ["def f():"]
    assert lines_for("f", "a = 1", "f = lambda: a", "f = lambda: 5") == ["f = lambda: 5"]
    kept = lines_for("f", "def f():\n    return 1", "g = f", "def f():\n    return g() + 1")
    assert kept == ["def f():", "g = f", "def f():"]
    unsure = lines_for("f", "def f():\n    return 1", "@maybe\ndef f():\n    return 2")
    assert unsure == ["def f():", "def f():"]


def test_names_of_a_function_are_not_those_of_the_notebook() -> None:
    cells = ["device = start()", "x = start()", "def f(device):\n    x = [device for device in 'ab']\n    return x"]
    assert lines_for("f", *cells) == ["def f(device):"]


def test_nothing_runs_while_a_notebook_is_read(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    loud = f"open({str(mark)!r}, 'w')\n!touch {mark}\n%run x\n%%time"
    submission = submission_of(loud, f"import os\nos.system('touch {mark}')\nexec('open({str(mark)!r}, \"w\")')", RIGHT)
    assert submission.needed_for("f")
    assert not mark.exists()


def test_a_statement_that_fails_spoils_itself_only() -> None:
    code = submission_of(
        "import a_package_that_does_not_exist as gone",
        "K = undefined_name\nL = 2",
        "class Loud:\n    raise SystemExit(0)",
        "raise_it = lambda: 1 / 0\nraise_it.x = raise_it()",
        "def f():\n    return gone, K, Loud, L, raise_it",
    )
    scope: dict[str, Any] = {}
    failed = define(code.needed_for("f"), scope)
    assert {"f", "L", "raise_it"} <= set(scope)
    assert [str(failure) for failure in failed] == [
        "cell 1: `import a_package_that_does_not_exist as gone` did not run: "
        "ModuleNotFoundError: No module named 'a_package_that_does_not_exist'",
        "cell 2: `K = undefined_name` did not run: NameError: name 'undefined_name' is not defined",
        "cell 3: `class Loud:` did not run: SystemExit: 0",
        "cell 4: `raise_it.x = raise_it()` did not run: ZeroDivisionError: division by zero",
    ]
    assert [sorted(failure.names & {"K", "Loud"}) for failure in failed] == [[], ["K"], ["Loud"], []]


def test_definitions_that_take_too_long_are_stopped_and_named() -> None:
    code = submission_of("A = 1", "while A:\n    A += 1", "def f():\n    return A")
    (failure,) = define(code.needed_for("f"), {}, seconds=0.2)
    assert (
        str(failure) == "cell 2: `while A:` did not run: this statement and the earlier statements took more than 0.2 seconds"
    )


def test_a_hint_is_looked_up_unless_the_notebook_says_otherwise() -> None:
    late, plain = "from __future__ import annotations", "def f() -> Unknown:\n    return 5"
    assert "name 'Unknown' is not defined" in str(define(submission_of(plain).needed_for("f"), {})[0])
    assert value_of("f", submission_of(late, plain)) == 5


# Cells -------------------------------------------------------------------------------------------------------------------
MERGED = "<<<<<<< HEAD\nx = 1\n=======\nx = 2\n>>>>>>> mine"


def test_cells_that_jupyter_would_not_run_are_left_out_with_a_sentence() -> None:
    code = submission_of(
        "def f( return 2",
        "\x00",
        "(" * 5000,
        MERGED,
        "%%bash\nls",
        "%%timeit\nf()",
        RIGHT,
    )
    assert [" is left out" in note for note in code.notes] == [True] * 4 + [False] * 2
    assert "in line 1: " in code.notes[0]
    assert "marks of a merge conflict" in code.notes[3]
    assert "the magic %%bash defines no names" in code.notes[4]
    assert all(len(note) < 200 for note in code.notes)
    assert value_of("f", code) == 5


def test_why_a_function_is_missing() -> None:
    assert submission_of("x = 1").why_missing("f") == "The notebook defines no function f."
    assert "Cell 1 is left out, because Jupyter cannot run it" in submission_of("def f(:\n    pass").why_missing("f")
    retyped = Submission([notebook_file.FileCell(1, False, RIGHT)])
    assert retyped.why_missing("f") == "Cell 1 contains f, but it is not a code cell: change the type of the cell to code."
    assert "but not at the top level of the notebook" in submission_of("class A:\n    def f(self): pass").why_missing("f")


def test_without_ipython_plain_python_is_read_and_magics_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert value_of("f", submission_of("x = 10 % 3", RIGHT)) == 5
    assert "Cell 1 is left out" in submission_of("def f(:").notes[0]
    for magic in ("%matplotlib inline", "x = !ls\n!ls", "len?"):
        with pytest.raises(NotAvailable, match="install labkit with its extra 'lab'"):
            submission_of(magic, RIGHT).needed_for("f")


def test_a_long_cell_or_one_of_many_magics_is_read_if_it_is_plain() -> None:
    long = f"DATA = '{'x' * 100_000}'\n"
    assert value_of("f", submission_of(long + "def f():\n    return len(DATA)")) == 100_000
    assert "and is not plain Python" in submission_of(long + "!ls\n" + RIGHT).notes[0]
    assert submission_of("%who\n" * 1000, RIGHT).notes == [
        "Cell 1 is left out: it has more than 100 magics; split it into shorter cells."
    ]
    assert value_of("f", submission_of("x = (1\n% 5\n)\n" * 500 + RIGHT)) == 5


# Files -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
def test_every_encoding_is_read(encoding: str, path: Path) -> None:
    text = json.dumps({"cells": [{"cell_type": "code", "source": "def f():\n    return 'café'"}]}, ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    assert value_of("f", read_submission(path)) == "café"


def test_old_formats_are_read(path: Path) -> None:
    cells = [
        {"cell_type": "code", "language": "python", "input": ["def f():\n", "    return 5"]},
        {"cell_type": "code", "language": "R", "input": "f <- 5"},
        {"cell_type": "heading", "level": 1, "source": "Title"},
    ]
    for content in (
        {"nbformat": 3, "worksheets": [{"cells": cells[1:]}, {"cells": cells[:1]}], "metadata": {"name": ""}},
        {"nbformat": 2, "worksheets": [{"cells": cells}]},
        {"nbformat": 1, "cells": [{"cell_type": "code", "code": RIGHT}]},
        {"nbformat": 4, "cells": [{"cell_type": "code", "source": RIGHT}], "metadata": {"kernelspec": {"language": "Python"}}},
        {"nbformat": 4, "cells": [{"cell_type": "code", "source": RIGHT}], "metadata": {"kernelspec": None}},
    ):
        path.write_text(json.dumps(content))
        assert value_of("f", read_submission(path)) == 5


CONFLICT = '{"cells": [\n<<<<<<< HEAD\n1\n=======\n2\n>>>>>>> other\n]}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a notebook: the file is empty"),
        (" \n", "is not a notebook: the file is empty"),
        ("{", "is not a notebook: the file is not JSON: line 1, "),
        ("PK\x03\x04" + "é" * 300_000, "is not a notebook: the file is not JSON: line 1, "),
        ("[" * 100_000, "is not a notebook: the file is not JSON"),
        ('{"cells": [' + "9" * 100_000 + "]}", "is not a notebook: the file is not JSON"),
        (CONFLICT, "is in conflict after a merge: line 2 starts with <<<<<<<; resolve the conflict, then save it"),
        ("[]", "is not a notebook: the file contains a JSON list, not cells"),
        ("null", "is not a notebook"),
        ("{}", "is not a notebook: the file has no list of cells"),
        ('{"cells": 5}', "is not a notebook: the file has no list of cells"),
        ('{"worksheets": [5]}', "is not a notebook: the file has no list of cells"),
        ('{"worksheets": 5}', "is not a notebook: the file has no list of cells"),
        ('{"cells": [5]}', "is not a notebook: its cell 1 has no type or no text"),
        ('{"cells": [{"cell_type": "code", "source": null}]}', "is not a notebook: its cell 1 has no type or no text"),
        ('{"cells": [{"cell_type": "code", "source": [1]}]}', "is not a notebook: its cell 1 has no type or no text"),
        (
            '{"cells": [], "metadata": {"kernelspec": {"language": "R"}}}',
            "is for a kernel of R, but the notebooks of the course are",
        ),
        ('{"cells": [], "metadata": {"language_info": {"name": "julia"}}}', "is for a kernel of julia"),
    ],
)
def test_what_is_no_notebook_is_refused_in_one_short_sentence(text: str, said: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        read_submission(path)
    assert str(refused.value).startswith(f"{path} {said}")
    assert len(str(refused.value)) < len(str(path)) + 120
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match=r"gone\.ipynb is not a notebook: No such file"):
        read_submission(path.with_name("gone.ipynb"))
    with pytest.raises(InvalidRequest, match="is not a notebook: Is a directory"):
        read_submission(path.parent)
    path.write_bytes(bytes(range(256)) * 2000)
    with pytest.raises(InvalidRequest, match="is not JSON") as refused:
        read_submission(path)
    assert len(str(refused.value)) < len(str(path)) + 120
    monkeypatch.setattr(notebook_file, "MOST_NOTEBOOK_BYTES", 1000)
    with pytest.raises(InvalidRequest, match="clear the notebook's outputs"):
        read_submission(path)


def test_an_empty_notebook_defines_nothing(path: Path) -> None:
    found = read_submission(write(path, "", []))
    assert (found.names, found.functions, found.notes, found.needed_for("f")) == (set(), set(), [], [])
