"""`python -m tests.gpu` runs all GPU tests and benchmarks and writes their records.

Records are written to the folder that the environment variable `OUT` names, or to tests/benchmarks/results/. Without a GPU, the
program prints that nothing was measured and exits with status 1. The step that measures several ranks needs two GPUs; with one
GPU, it reports this.

GPU time is expensive, and most of a first run is spent compiling kernels. So several processes first compile the kernels of the
tests and the candidates of the linear kernels, before anything is timed. Then the linear kernels are tuned, with the results in
a temporary home or in `LABKIT_HOME`, so that the figures of the 6B model are those of tuned kernels. The most important steps
come first. After `--budget SECONDS` the running step is ended, the remaining steps are listed as left out, and the whole run
counts as failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(os.environ.get("OUT") or Path(__file__).parents[1] / "benchmarks" / "results")
KINDS, ROWS = ("dense", "int8", "int4", "fp8", "w8a8"), "1,8,64"
SIX_B = ["--model", "gpt-j-6b-synthetic", "--new-tokens", "128"]
PEERS = ["--against", "hf,hf-compiled"]
OWN = ["--against", ""]
BENCHES = {
    "gpt_j_6b_fp8": [*SIX_B, "--precision", "fp8", "--batch", "64", *OWN, "--seconds", "10"],
    "gpt_j_6b_int8": [*SIX_B, "--precision", "int8", "--batch", "1,8", *OWN, "--seconds", "8"],
    "gpt_j_6b_int4": [*SIX_B, "--precision", "int4", "--batch", "1,8", *OWN, "--seconds", "8"],
    "gpt_j_6b_fp16_1024": [
        *("--model", "gpt-j-6b-synthetic", "--prompt-tokens", "1024", "--new-tokens", "8", "--precision", "fp16"),
        *("--batch", "8", *OWN, "--seconds", "8"),
    ],
    "gpt_j_6b_fp16": [*SIX_B, "--precision", "fp16", "--batch", "1,8", *PEERS, "--seconds", "40", "--rounds", "3"],
    "gpt_j_405m_fp16": ["--model", "gpt-j-405m-synthetic", "--precision", "fp16", "--batch", "1,8", "--seconds", "15"],
    "gptj_tiny_fp32": ["--model", "gptj-tiny", "--precision", "fp32", "--batch", "1,8", "--seconds", "10"],
}


def main() -> int:
    """Run everything; the last line of stdout is one JSON object with each step's exit status and seconds."""
    parser = argparse.ArgumentParser(description="All GPU tests and benchmarks.")
    parser.add_argument(
        "--budget", type=float, default=1800.0, help="after this many seconds the running step is ended and no other is started"
    )
    budget = parser.parse_args().budget
    import torch

    if not torch.cuda.is_available():
        print("not measured here: no GPU that torch can use")
        return 1
    started = time.monotonic()
    name = torch.cuda.get_device_name(0).lower().replace("nvidia ", "").replace(" ", "_")
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("LABKIT_HOME", home)
        found = {"tests and compiling": prepare(started + budget)}
        for step, arguments in steps(name).items():
            begun = time.monotonic()
            if begun > started + budget:
                found[step] = {"status": "left out: the budget was spent"}
                continue
            print(f"== {step}", flush=True)
            with subprocess.Popen([sys.executable, "-m", *arguments]) as process:
                status = ended(process, started + budget)
            found[step] = {"status": status, "seconds": round(time.monotonic() - begun, 1)}
    print(json.dumps({"gpu": name, "seconds": round(time.monotonic() - started, 1), "steps": found}))
    return int(any(row["status"] for row in found.values()))


def ended(process: subprocess.Popen[bytes], until: float) -> int | str:
    """Wait for a process until the time `until`. Return its exit status, or a sentence if it was killed at this time."""
    try:
        return process.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return "ended: the budget was spent"


def prepare(until: float) -> dict[str, object]:
    """Run the tests, in parallel if pytest-xdist is installed, while other processes compile; nothing is timed here."""
    print("== tests and compiling", flush=True)
    begun = time.monotonic()
    several = importlib.util.find_spec("xdist") is not None
    spread = ["-n", str(max((os.cpu_count() or 2) // 2, 1))] if several else []
    tests = subprocess.Popen([sys.executable, "-m", "pytest", "tests/gpu", "-q", "-rs", *spread])
    compiling = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.linear", "--compile", "--kinds", kind, "--rows", ROWS],
            stdout=subprocess.DEVNULL,
        )
        for kind in KINDS
    ]
    statuses = [ended(process, until) for process in (tests, *compiling)]
    return {"status": next((status for status in statuses if status), 0), "seconds": round(time.monotonic() - begun, 1)}


def steps(gpu: str) -> dict[str, list[str]]:
    """For each step, the module to run and its arguments. The most important step is first; records are named after the GPU."""

    def save(step: str) -> list[str]:
        return ["--save", str(RESULTS / f"gpu_{gpu}_{step}.json")]

    grown = ["--model", "gpt-j-6b-synthetic", "--precision", "fp16", "--seconds", "0.5"]
    kinds = ["--kinds", ",".join(KINDS)]
    return {
        "tune": ["tests.benchmarks.linear", "--tune", "--seconds", "0", *kinds],
        **{step: ["labkit", "bench", *options, "--device", "cuda", *save(step)] for step, options in BENCHES.items()},
        "kernels": ["tests.benchmarks.kernels", "--seconds", "0.2", *save("kernels")],
        "growth": ["tests.benchmarks.growth", *grown, *save("growth_gpt_j_6b_fp16")],
        "linear": ["tests.benchmarks.linear", "--tune", "--seconds", "0.1", *kinds, *save("linear")],
        "load_memory": ["tests.benchmarks.load_memory", *save("load_memory")],
        "ranks": ["tests.benchmarks.ranks", *save("ranks_gpt_j_6b_fp16")],
    }


if __name__ == "__main__":
    raise SystemExit(main())
