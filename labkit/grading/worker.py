"""The process in which a learner's function runs when it is not trusted: `python -m labkit.grading.worker JOB OUT`.

Reads a JSON job, limits itself, defines the learner's names, calls the function on the exercise's cases, and writes
the outcomes as JSON and safetensors. It compares nothing and is believed about values only.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

MEMORY_BYTES = 8 * 2**30
FILE_BYTES = 256 * 2**20


def limit(cpu_seconds: int) -> None:
    """Bound this process's CPU time, data memory, file size and core dumps."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def row_of(outcome: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """An outcome as JSON; its tensors go into `tensors`."""
    from labkit.grading.values import encode

    value = encode(outcome.value, tensors)
    return {"value": value, "error": outcome.error, "error_kind": outcome.error_kind, "changed": outcome.changed}


def main() -> None:
    """Run one job: `{exercise, function, source, seeds, cpu_seconds}` to `OUT/outcomes.json` and `OUT/tensors.safetensors`."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    out = Path(sys.argv[2])
    from safetensors.torch import save_file

    from labkit.exercises.registry import exercise as find
    from labkit.grading.call import Outcome, run_cases

    exercise = find(job["exercise"])
    limit(job["cpu_seconds"])
    scope: dict[str, Any] = {"__name__": "submission"}
    tensors: dict[str, Any] = {}
    runs: dict[str, list[dict[str, Any]]] = {}
    try:
        exec(compile(job["source"], "submission", "exec"), scope)
        function = scope[job["function"]]
    except Exception as error:
        words = f"the notebook's definitions do not run: {type(error).__name__}: {error}"
        failed = Outcome(error=words, error_kind="Definition")
        runs = {str(seed): [row_of(failed, tensors)] for seed in job["seeds"]}
    else:
        for seed in job["seeds"]:
            runs[str(seed)] = [row_of(outcome, tensors) for outcome in run_cases(function, exercise, seed)]
    save_file(tensors, out / "tensors.safetensors")
    (out / "outcomes.json").write_text(json.dumps(runs), "utf-8")


if __name__ == "__main__":
    main()
