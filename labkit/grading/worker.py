"""The process in which a learner's function runs when it is not trusted: `python -m labkit.grading.worker JOB OUT`.

Reads a JSON job, limits itself, defines the learner's names, calls the function on the exercise's cases, and writes
the outcomes as JSON and safetensors. It compares nothing and is believed about values only.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
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


def main() -> None:
    """Run one job: `{exercise, function, source, seeds, cpu_seconds}` to `OUT/outcomes.json` and `OUT/tensors.safetensors`."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    out = Path(sys.argv[2])
    from safetensors.torch import save_file

    from labkit.exercises.registry import exercise as find
    from labkit.grading.call import Outcome, run_cases
    from labkit.grading.values import encode

    exercise = find(job["exercise"])
    limit(job["cpu_seconds"])
    scope: dict[str, Any] = {"__name__": "submission"}
    tensors: dict[str, Any] = {}
    runs: dict[str, list[dict[str, Any]]] = {}
    try:
        exec(compile(job["source"], "submission", "exec"), scope)
        function = scope[job["function"]]
    except Exception as error:
        failed = Outcome(
            error=f"the notebook's definitions do not run: {type(error).__name__}: {error}", error_kind="Definition"
        )
        runs = {str(seed): [asdict(failed) | {"value": {"plain": None}}] for seed in job["seeds"]}
    else:
        for seed in job["seeds"]:
            outcomes = run_cases(function, exercise, seed)
            runs[str(seed)] = [asdict(o) | {"value": encode(o.value, tensors)} for o in outcomes]
    save_file(tensors, out / "tensors.safetensors")
    (out / "outcomes.json").write_text(json.dumps(runs), "utf-8")


if __name__ == "__main__":
    main()
