"""All that needs a GPU, in one call: `python -m tests.gpu` runs the GPU tests and benchmarks and writes their records.

Records go to the folder named by `OUT`, else to tests/benchmarks/results/. Where there is no GPU it says so and ends
with status 1: nothing was measured. Ranks on GPUs need two of them: with one, the step says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(os.environ.get("OUT") or Path(__file__).parents[1] / "benchmarks" / "results")
SIX_B = ["--model", "gpt-j-6b-synthetic", "--new-tokens", "128"]
BENCHES = {
    "gptj_tiny_fp32": ["--model", "gptj-tiny", "--precision", "fp32", "--batch", "1,8", "--seconds", "15"],
    "gpt_j_405m_fp16": ["--model", "gpt-j-405m-synthetic", "--precision", "fp16", "--batch", "1,8", "--seconds", "20"],
    "gpt_j_6b_fp16": [*SIX_B, "--precision", "fp16", "--batch", "1,8", "--against", "hf,hf-compiled", "--seconds", "60"],
    "gpt_j_6b_int8": [*SIX_B, "--precision", "int8", "--batch", "1,8", "--against", "", "--seconds", "20"],
    "gpt_j_6b_int4": [*SIX_B, "--precision", "int4", "--batch", "1,8", "--against", "", "--seconds", "20"],
    "gpt_j_6b_fp8": [*SIX_B, "--precision", "fp8", "--batch", "64", "--against", "", "--seconds", "20"],
}


def main() -> int:
    """Run everything; the last line of stdout is one JSON object with each step's exit status and seconds."""
    import torch

    if not torch.cuda.is_available():
        print("not measured here: no GPU that torch can use")
        return 1
    name = torch.cuda.get_device_name(0).lower().replace("nvidia ", "").replace(" ", "_")
    steps = {"tests": [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-rs"]}
    for bench, options in BENCHES.items():
        save = RESULTS / f"gpu_{name}_{bench}.json"
        steps[bench] = [sys.executable, "-m", "labkit", "bench", *options, "--device", "cuda", "--save", str(save)]
    kernels = RESULTS / f"gpu_{name}_kernels.json"
    steps["kernels"] = [sys.executable, "-m", "tests.benchmarks.kernels", "--save", str(kernels)]
    linear = RESULTS / f"gpu_{name}_linear.json"
    steps["linear"] = [sys.executable, "-m", "tests.benchmarks.linear", "--tune", "--save", str(linear)]
    growth = RESULTS / f"gpu_{name}_growth_gpt_j_6b_fp16.json"
    grown = ["--model", "gpt-j-6b-synthetic", "--precision", "fp16", "--seconds", "1", "--save", str(growth)]
    steps["growth"] = [sys.executable, "-m", "tests.benchmarks.growth", *grown]
    load = RESULTS / f"gpu_{name}_load_memory.json"
    steps["load_memory"] = [sys.executable, "-m", "tests.benchmarks.load_memory", "--save", str(load)]
    ranks = RESULTS / f"gpu_{name}_ranks_gpt_j_6b_fp16.json"
    steps["ranks"] = [sys.executable, "-m", "tests.benchmarks.ranks", "--save", str(ranks)]
    found = {}
    for step, command in steps.items():
        print(f"== {step}", flush=True)
        started = time.monotonic()
        status = subprocess.run(command, check=False).returncode
        found[step] = {"status": status, "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps({"gpu": name, "steps": found}))
    return int(any(row["status"] for row in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
