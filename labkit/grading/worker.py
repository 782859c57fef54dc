"""The process in which a learner's function runs when it is not trusted: `python -m labkit.grading.worker JOB OUT`.

Reads a JSON job, limits itself, defines the learner's names, calls the function on the exercise's cases, and writes
the outcomes as JSON and safetensors. It compares nothing and is believed about values only.
"""

from __future__ import annotations

import ast
import json
import linecache
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

MEMORY_BYTES = 8 * 2**30
FILE_BYTES = 256 * 2**20
SUBMISSION = "submission"


def limit(cpu_seconds: int) -> None:
    """Bound this process's CPU time, data memory, file size and core dumps."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def row_of(outcome: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """An outcome as JSON; its tensors go into `tensors`. A value that cannot be passed on becomes an error in words."""
    from labkit.plain_values import encode

    words = {name: getattr(outcome, name) for name in ("error", "error_kind", "changed", "breach")}
    row: dict[str, Any] = {"value": encode(None, {}), **words}
    try:
        return row | {"value": encode(outcome.value, tensors)}
    except Exception as error:
        return row | {"error": f"its answer cannot be read: {type(error).__name__}", "error_kind": type(error).__name__}


def define(source: str, scope: dict[str, Any]) -> dict[str, str]:
    """Run a submission's definitions one by one, so that one that fails spoils itself only; names them and their errors."""
    linecache.cache[SUBMISSION] = (len(source), None, source.splitlines(keepends=True), SUBMISSION)
    failed: dict[str, str] = {}
    for node in ast.parse(source).body:
        try:
            exec(compile(ast.Module([node], []), SUBMISSION, "exec"), scope)
        except (Exception, SystemExit) as error:
            failed[getattr(node, "name", ast.unparse(node))] = f"{type(error).__name__}: {error}"
    return failed


def main() -> None:
    """Run one job to `OUT/outcomes.json` and `OUT/tensors.safetensors`.

    A job is `{exercise, function, source, seeds, seconds, cpu_seconds}`; `seconds` bounds one call.
    """
    os.environ["TRITON_INTERPRET"] = "1"  # kernels are graded by their values, the same way on every machine
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    out = Path(sys.argv[2])
    from safetensors.torch import save_file

    from labkit.exercises.registry import exercise as find
    from labkit.grading.call import Outcome, run_seeds

    exercise = replace(find(job["exercise"]), seconds=job["seconds"])
    limit(job["cpu_seconds"])
    scope: dict[str, Any] = {"__name__": SUBMISSION}
    failed = define(job["source"], scope)
    name = job["function"]
    tensors: dict[str, Any] = {}
    if name in scope:
        runs = run_seeds(scope[name], exercise, job["seeds"])
    else:
        error = f"its definition does not run: {failed.get(name, 'it is gone')}"
        runs = {job["seeds"][0]: [Outcome(error=error, error_kind="Definition")]}
    rows = {seed: [row_of(outcome, tensors) for outcome in outcomes] for seed, outcomes in runs.items()}
    save_file(tensors, out / "tensors.safetensors")
    (out / "outcomes.json").write_text(json.dumps(rows), "utf-8")


if __name__ == "__main__":
    main()
