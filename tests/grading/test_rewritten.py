"""The solved notebooks are rewritten in forms with the same meaning. No verdict changes, not even for wrong answers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.cli.check import check
from labkit.exercises.registry import exercise as find
from labkit.grading.notebook_check import check_submission
from labkit.grading.submission import Submission, read_submission, submission_of
from labkit.grading.verdict import FAILED, PASSED
from labkit.grading.workers import Workers
from tests.sampled import one_in

ROOT = Path(__file__).parents[2]
NAMES = ("parameter_count", "weight_gib", "kv_cache_bytes", "gpus_needed", "roofline_time", "decode_floor_ms")
NAMES += ("time_runs", "positions_processed", "throughput", "roofline_fraction", "step_seconds", "fuse_qkv", "sample_token")
NOTEBOOKS = [
    ROOT / "solutions" / f"{name}.ipynb" for name in ("00_class_environment", "01_huggingface_baseline", "02_fused_kernels")
]
SEED = 20


def indented(text: str) -> str:
    return "    " + text.replace("\n", "\n    ")


def renamed(name: str, cell: str) -> str:
    return re.sub(rf"\b{name}\b", f"_{name}", cell)


Form = Callable[[str, str], list[str]]
"""Each form turns a function's name and the cell that defines it into the cells that replace this cell."""

FORMS: dict[str, Form] = {
    "if": lambda name, cell: ["ONE = 2 - 1", f"if ONE:\n{indented(cell)}\nelse:\n    {name} = None"],
    "with": lambda name, cell: ["import contextlib", f"with contextlib.nullcontext():\n{indented(cell)}"],
    "try": lambda name, cell: [f"try:\n    import no_such_package\nexcept ImportError:\n{indented(cell)}"],
    "for": lambda name, cell: [f"for _ in range(2):\n{indented(cell)}"],
    "magics": lambda name, cell: [f"%matplotlib inline\nfiles = !ls\nr = %timeit -o len('')\n{cell}\n\n{name}?"],
    "%%time": lambda name, cell: [f"%%time\n%precision 3\n{cell}"],
    "alias": lambda name, cell: [renamed(name, cell), f"{name} = _{name}"],
    "lambda": lambda name, cell: [renamed(name, cell), f"{name} = lambda *a, **k: _{name}(*a, **k)"],
    "decorator": lambda name, cell: ["def same(f):\n    return lambda *a, **k: f(*a, **k)", f"@same\n{cell}"],
    "nested": lambda name, cell: [f"def make():\n{indented(cell)}\n    return {name}", f"{name} = make()"],
    "class": lambda name, cell: [f"class Box:\n    @staticmethod\n{indented(cell)}", f"{name} = Box.{name}"],
    "stub first": lambda name, cell: [f"def {name}(*a):\n    raise NotImplementedError", cell, f"if False:\n    del {name}"],
    "constants": lambda name, cell: [
        renamed(name, cell),
        f"def {name}(*a):\n    return [None, _{name}(*a)][ONE]",
        "ZERO, ONE = 0, 0",
        "ONE += 2**ZERO",
    ],
    "exec": lambda name, cell: [f"SOURCE = {cell!r}", "exec(SOURCE)"],
    "table": lambda name, cell: [renamed(name, cell), "T = {}", f"T['f'] = _{name}", f"def {name}(*a):\n    return T['f'](*a)"],
    "await": lambda name, cell: [renamed(name, cell), f"async def give():\n    return _{name}", f"{name} = await give()"],
    "walrus": lambda name, cell: [renamed(name, cell), f"print({name} := _{name})"],
    "match": lambda name, cell: [f"match 'x':\n    case str():\n{indented(indented(cell))}"],
    "moved down": lambda name, cell: [f"def {name}(*a):\n    return _{name}(*a)", renamed(name, cell)],
    "semicolons": lambda name, cell: [f"{renamed(name, cell)}\n", f"_a = _{name}; {name} = _a; del _a"],
    "prompt": lambda name, cell: ["In [1]: \n", indented(cell)],
    "attribute": lambda name, cell: [
        renamed(name, cell),
        f"def {name}(*a):\n    return {name}.own(*a)",
        f"{name}.own = _{name}",
    ],
}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """One host process for all functions of this file."""
    with Workers() as found:
        yield found


@pytest.fixture(scope="module")
def solved() -> dict[str, list[str]]:
    """For each exercise, the code cells of its notebook up to and including the cell that defines it."""
    found: dict[str, list[str]] = {}
    for path in NOTEBOOKS:
        cells = [cell.text for cell in read_submission(path).cells if cell.is_code]
        for number, cell in enumerate(cells):
            if (match := re.match(r"def (\w+)\(", cell)) and match[1] in NAMES:
                found[match[1]] = cells[: number + 1]
    return found


def rewritten(name: str, cells: list[str], form: str) -> Submission:
    """The notebook with its last cell rewritten in this form."""
    *before, cell = cells
    return submission_of(*before, *FORMS[form](name, cell.strip()))


def pairs() -> list[tuple[str, str]]:
    """Every form, each with three randomly chosen exercises."""
    draw = random.Random(SEED)
    return [(name, form) for form in FORMS for name in draw.sample(NAMES, 3)]


@pytest.mark.parametrize(("name", "form"), one_in(6, pairs()))
def test_a_solution_passes_in_every_form(name: str, form: str, solved: dict[str, list[str]], workers: Workers) -> None:
    verdict = check_submission(find(name), rewritten(name, solved[name], form), workers)
    assert verdict.verdict == PASSED, str(verdict)


@pytest.mark.parametrize("form", one_in(3, FORMS))
def test_a_wrong_answer_fails_in_every_form(form: str, solved: dict[str, list[str]], workers: Workers) -> None:
    name = "kv_cache_bytes"
    *before, cell = solved[name]
    right = check_submission(find(name), submission_of(*before, wrong := cell.replace("return 2 *", "return 4 *")), workers)
    verdict = check_submission(find(name), rewritten(name, [*before, wrong], form), workers)
    assert right.verdict == FAILED
    assert (verdict.verdict, verdict.message) == (FAILED, right.message)


def test_the_names_of_a_labs_set_up_are_there(solved: dict[str, list[str]], workers: Workers) -> None:
    *before, cell = solved["time_runs"]
    names = 'assert device in ("cpu", "cuda") and config.num_layers == 8 and runs and path.is_dir()'
    uses = f"def names():\n    {names}\n\n\n{cell}".replace("    times = []", "    names()\n    times = []")
    assert uses.count("names()") == 2
    code = submission_of(*before, uses)
    assert check_submission(find("time_runs"), code, workers).verdict == PASSED
    kept = "\n".join(line for piece in code.needed_for("time_runs") for line in piece.source.splitlines())
    assert "model = AutoModelForCausalLM" in kept  # the cell has this statement, but it is not run
    assert sum(len(piece.statements) for piece in code.needed_for("time_runs")) < 14


def test_what_did_not_run_is_named_with_its_cell(solved: dict[str, list[str]], workers: Workers) -> None:
    cell = solved["kv_cache_bytes"][-1]
    spoilt = cell.replace("return 2 *", "return server.factor *")
    verdict = check_submission(find("kv_cache_bytes"), submission_of("server = no_such_server()", "x = !ls", spoilt), workers)
    assert verdict.verdict == FAILED
    assert "NameError: name 'server' is not defined" in verdict.message
    assert "note: cell 1: `server = no_such_server()` did not run: NameError: name 'no_such_server' is not" in verdict.details
    empty = check_submission(
        find("kv_cache_bytes"), submission_of("x = !ls", cell.replace("return 2", "return 2 * len(x)")), workers
    )
    assert "note: `!ls` is for IPython; a check does not run it" in empty.details
    assert "ls" not in check_submission(find("kv_cache_bytes"), submission_of("x = !ls", cell), workers).details


def test_a_notebook_that_cannot_be_read_does_not_stop_the_others(
    solved: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name for name in ("one.ipynb", "merged.ipynb", "two.ipynb")]
    cells = [{"cell_type": "code", "source": source} for source in ("def broken(:", solved["kv_cache_bytes"][-1])]
    for path in paths:
        path.write_text(json.dumps({"cells": cells}))
    paths[1].write_text("<<<<<<< HEAD\n{}\n=======\n[]\n>>>>>>> mine\n")
    with pytest.raises(SystemExit) as ended:
        check(paths, json=True)
    said = capsys.readouterr()
    rows = [row for row in json.loads(said.out.splitlines()[-1])["exercises"] if row["points"]]
    assert [row["notebook"] for row in rows] == [str(paths[0]), str(paths[2])]
    assert ended.value.code == 2
    assert f"labkit: {paths[1]} is in conflict after a merge: line 1" in said.err
    assert said.err.count("Cell 1 is left out, because Jupyter cannot run it in line 1: invalid syntax.") == 2
