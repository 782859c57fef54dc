"""A notebook is checked by another process.

Honest answers pass. A function that manipulates the process in which it runs earns no points.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.errors import InvalidRequest
from labkit.exercises.registry import all_exercises
from labkit.grading import notebook_check
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import AGAIN
from labkit.grading.notebook_check import check_notebook, run_apart
from labkit.grading.submission import submission_of
from labkit.grading.verdict import ERROR, FAILED, INCONCLUSIVE, NOT_ATTEMPTED, PASSED, TIMED_OUT, Verdict
from labkit.grading.workers import Workers
from tests.busy_core import no_other_programs
from tests.patience import is_running, wait_for

CELLS = {
    # right
    "kv_cache_bytes": """
        print("noise " * 1_000_000)
        return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes""",
    "parameter_count": 'raise NotImplementedError("parameter_count")',
    "gpus_needed": """
        import sys
        sys.exit(0)""",
    "roofline_time": """
        import os
        os._exit(0)""",
    "weight_gib": """
        while True:
            pass""",
    "decode_floor_ms": """
        return bytearray(9 * 2**30)""",
    # writes outcomes in the right form and exits before the worker can write the real ones
    "positions_processed": """
        import json, os, sys
        from pathlib import Path
        from safetensors.torch import save
        from labkit.frames import pack_frame
        import torch
        row = {"value": {"plain": 0}, "error": "", "error_kind": "", "changed": "", "breach": "", "clue": "", "busy": ""}
        text = json.dumps({"runs": {seed: [row] * 14 for seed in (11, 23, 47)}, "notes": []})
        Path(sys.argv[2]).write_bytes(pack_frame(text.encode(), save({"0": torch.zeros(1)})))
        os._exit(0)""",
    # exits in the same way, with no answers at all
    "cache_bytes": """
        import os, sys
        from pathlib import Path
        from safetensors.torch import save
        from labkit.frames import pack_frame
        Path(sys.argv[2]).write_bytes(pack_frame(b'{"runs": {}, "notes": []}', save({})))
        os._exit(0)""",
    # changes the comparisons and the reference in its own process so that they agree with its answer
    "throughput": """
        import torch, labkit.answers.lab01, labkit.exercises.comparison, labkit.grading.judge, labkit.plain_values
        from labkit.exercises.answer import Answer
        answer = {"prefill": 1.0, "decode": 1.0, "per user": 1.0}
        labkit.exercises.comparison.Comparison.difference = lambda *a, **k: None
        labkit.answers.lab01.throughput = lambda *a: answer
        Answer.to = lambda *a: answer
        labkit.grading.judge.judge = lambda *a, **k: None
        torch.equal = torch.allclose = lambda *a, **k: True
        return answer""",
    # leaves a child process running
    "roofline_fraction": """
        import os, time
        if os.fork() == 0:
            time.sleep(600)
        return 1 / 0""",
    "greedy_decode": """
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        import ctypes
        ctypes.string_at(0)""",
}


ENDLESS = "weight_gib"
HOST_BYTES = 2e9
"""A memory limit above the resident memory of the processes that have imported torch."""
JOBS: list[Path] = []
"""The job files of the checked notebook."""
MARK = "LABKIT_TEST_OF_PROCESSES"
"""An environment variable that identifies the processes of the checked notebook."""


def cell(exercise: Any, body: str) -> str:
    import inspect
    import textwrap

    names = list(inspect.signature(answer_to(exercise).reference).parameters)
    return f"def {exercise.function}({', '.join(names)}):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")


def write(path: Path, cells: list[str]) -> Path:
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source} for source in cells]}))
    return path


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """The verdicts on one notebook with a function of each kind. The notebook is checked once, and the endless call may take
    one second.
    """
    path = tmp_path_factory.mktemp("check") / "lab.ipynb"
    quick = tuple(replace(one, seconds=1.0) if one.function == ENDLESS else one for one in all_exercises())
    write(path, [cell(exercise, CELLS[exercise.function]) for exercise in quick if exercise.function in CELLS])
    patch = pytest.MonkeyPatch()
    patch.setattr(notebook_check, "all_exercises", lambda: quick)
    patch.setenv(MARK, str(path))
    real = Workers.run
    patch.setattr(Workers, "run", lambda self, job, *more: JOBS.append(job) or real(self, job, *more))
    found = {verdict.exercise.split(".")[1]: verdict for verdict in check_notebook(path)}
    patch.undo()
    return found


def test_only_the_right_function_earns_points(verdicts: dict[str, Verdict]) -> None:
    assert {name: verdict.points for name, verdict in verdicts.items() if verdict.points} == {"kv_cache_bytes": 10}
    assert verdicts["kv_cache_bytes"].verdict == PASSED
    assert set(verdicts) == {exercise.function for exercise in all_exercises() if exercise.lab in ("00", "01")}


def test_stubs_and_missing_functions_are_not_attempted(verdicts: dict[str, Verdict]) -> None:
    for name, said in [("parameter_count", "still raises NotImplementedError"), ("time_runs", "defines no function time_runs")]:
        assert verdicts[name].verdict == NOT_ATTEMPTED
        assert said in verdicts[name].message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpus_needed", "it raised SystemExit: 0 (in your line `sys.exit(0)`)"),
        ("roofline_time", "ended before your function answered (status 0)"),
        (ENDLESS, "did not finish"),
        ("decode_floor_ms", "MemoryError"),
        ("positions_processed", "is not right"),
        ("cache_bytes", "the process returned no answers to some inputs"),
        ("throughput", "not right"),
        ("roofline_fraction", "it raised ZeroDivisionError: division by zero (in your line `return 1 / 0`)"),
        ("greedy_decode", "ended before your function answered (status -11)"),
    ],
)
def test_each_way_to_fail_is_said_in_words(name: str, said: str, verdicts: dict[str, Verdict]) -> None:
    stopped_by_others = name == ENDLESS and verdicts[name].message.startswith(AGAIN)
    assert verdicts[name].verdict == (INCONCLUSIVE if stopped_by_others else FAILED)
    assert said in verdicts[name].message
    assert "Traceback" not in str(verdicts[name])


def test_the_cause_of_a_failure_is_an_error_a_time_limit_or_a_wrong_answer(verdicts: dict[str, Verdict]) -> None:
    for name in ("gpus_needed", "roofline_time", "decode_floor_ms", "cache_bytes", "roofline_fraction", "greedy_decode"):
        assert verdicts[name].cause == ERROR
    for name in ("kv_cache_bytes", "parameter_count", "positions_processed", "throughput"):
        assert verdicts[name].cause == ""
    assert verdicts[ENDLESS].cause == ("" if verdicts[ENDLESS].verdict == INCONCLUSIVE else TIMED_OUT)


def test_nothing_is_left_running(verdicts: dict[str, Verdict]) -> None:
    assert verdicts
    assert len(JOBS) == 11
    assert not [job for job in JOBS if job.parent.exists()]
    left = [process for process in psutil.process_iter(["environ"]) if MARK in (process.info["environ"] or {})]
    wait_for(lambda: not any(is_running(process) for process in left), "the end of processes that were killed")


def at_its_definition(source: str) -> Verdict:
    """The verdict on a cell that runs this source when it defines its function, so before the time limit of a call begins."""
    code = f"SOURCE = {source!r}\ndef parameter_count(config, ran=exec(SOURCE)): return 5"
    return run_apart(all_exercises()[0], submission_of(code))


def test_a_process_that_outlives_its_time_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The children that end include one that left the session. On a slow machine, this child may only start within the longer
    time limit.
    """
    no_other_programs(monkeypatch)
    mark = tmp_path / "child"
    write = f"open({str(mark)!r}, 'w').write(str(os.getpid()))"
    for seconds in (3, 60):
        monkeypatch.setattr(notebook_check, "START_SECONDS", seconds - 60)
        verdict = at_its_definition(f"import os\nif not os.fork():\n    os.setsid()\n    {write}\nwhile True: pass")
        if mark.exists():
            break
    assert verdict.message == f"Your function ran for more than {seconds} seconds and was stopped."
    assert (verdict.verdict, verdict.points, verdict.cause) == (FAILED, 0, TIMED_OUT)
    wait_for(lambda: not is_running(int(mark.read_text())), "the end of what the process had started")


def test_endless_output_fills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.measure import peak_host_memory

    monkeypatch.setattr(notebook_check, "START_SECONDS", -59)
    with peak_host_memory() as peak:
        verdict = at_its_definition("while True: print('x' * 10**6)")
    assert verdict.points == 0
    assert peak.bytes < HOST_BYTES + 100e6


def test_the_job_states_what_is_asked_for_and_no_answers(tmp_path: Path) -> None:
    copy = tmp_path / "job.json"
    at_its_definition(f"import shutil, sys; shutil.copy(sys.argv[1], {str(copy)!r})")
    job = json.loads(copy.read_text())
    assert set(job) == {"exercise", "function", "pieces", "folder", "files", "seeds", "cases", "seconds", "cpu_seconds"}
    assert job["seconds"] == all_exercises()[0].seconds


def test_a_function_finds_nothing_of_the_function_before_it() -> None:
    """Each function runs in a process of its own, and the processes that it leaves behind are ended."""
    leaves = "import os, sys, torch\ntorch.left = 1\nif os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(600)"
    looks = (
        "import psutil, torch\nothers = [one.pid for one in psutil.Process().parent().children() if one.status() != 'zombie']"
    )
    looks += "\nraise LookupError(f'{len(others)} worker, {hasattr(torch, \"left\")}')"
    with Workers() as workers:
        for source in (leaves, looks):
            code = f"SOURCE = {source!r}\ndef parameter_count(config): exec(SOURCE, globals()); return 5"
            verdict = run_apart(all_exercises()[0], submission_of(code), workers)
    assert "LookupError: 1 worker, False" in verdict.message


def test_if_the_host_ends_the_next_function_gets_a_new_one() -> None:
    kills = "def parameter_count(config):\n    import os, time\n    os.kill(os.getppid(), 9)\n    time.sleep(600)"
    asked = next(exercise for exercise in all_exercises() if exercise.function == "kv_cache_bytes")
    with Workers() as workers:
        verdict = run_apart(all_exercises()[0], submission_of(kills), workers)
        assert (verdict.verdict, verdict.cause) == (FAILED, ERROR)
        assert "ended before your function answered (status -9)" in verdict.message
        assert run_apart(asked, submission_of(cell(asked, CELLS["kv_cache_bytes"])), workers).verdict == PASSED


def test_notebooks_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="defines none of the functions of the course"):
        check_notebook(write(tmp_path / "lab.ipynb", ["def something(): pass"]))
    with pytest.raises(InvalidRequest, match="is not a notebook"):
        check_notebook(tmp_path / "gone.ipynb")
