"""Measures the speed-up of tensor-parallel decoding on several GPUs over one GPU, and compares it with the prediction.

    python -m tests.benchmarks.ranks [--model gpt-j-6b-synthetic] [--batch 1,8] [--seconds 60] [--save FILE]

It runs labkit on 1 and 2 GPUs, and on 4 and 8 if the machine has that many. A single GPU replays its steps from CUDA graphs;
ranks do not. On a machine with one GPU it prints that nothing was measured and exits with status 0.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from labkit.bench import BenchSettings, run_bench

GOAL = 1.6
"""The goal for the speed-up of decoding at batch 1 on two GPUs over one GPU."""


def why_not() -> str:
    """The reason why nothing can be measured on this machine; empty if something can be measured."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return "" if count > 1 else f"not measured here: needs two GPUs, {count} found"


def main() -> int:
    """Measure, print a line for each number of GPUs, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt-j-6b-synthetic")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    if why := why_not():
        print(why)
        return 0
    ranks = tuple(count for count in (1, 2, 4, 8) if count <= torch.cuda.device_count())
    batches = tuple(map(int, given.batch.split(",")))
    settings = BenchSettings(
        model=given.model,
        batches=batches,
        new_tokens=128,
        precisions=("fp16",),
        device="cuda",
        against=(),
        seconds=given.seconds,
        tensor_parallel=ranks,
    )
    record = run_bench(settings, progress=lambda line: print(line, file=sys.stderr))
    times = {(row["engine"], row["batch"]): row["decode_ms_per_token"] for row in record.rows}
    predicted = record.extra["predicted_scaling"]["times_faster"]
    faster: dict[str, float] = {}
    for count in ranks[1:]:
        for batch in batches:
            found = times.get((f"labkit-tp{count}-pp1", batch))
            if found is None:
                print(f"{count} GPUs, batch {batch}: not measured here; see not_measured in the record")
                continue
            ratio = faster[f"{count} GPUs, batch {batch}"] = times["labkit", batch] / found
            goal = f", goal {GOAL}" if (count, batch) == (2, 1) else ""
            beside = f", predicted {predicted[count]:.2f}" if batch == 1 else ""
            print(f"{count} GPUs, batch {batch}: {ratio:.2f} times one GPU's decode{goal}{beside}")
    print("predicted at batch 1:", ", ".join(f"{count} GPUs {speed:.2f} x" for count, speed in predicted.items()))
    record.extra["times_faster"] = faster
    if given.save:
        print(f"record written to {record.save(given.save)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
