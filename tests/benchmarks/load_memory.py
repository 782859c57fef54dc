"""Measures the peak host memory of `labkit.load`, relative to the weights that are in memory afterwards.

    python -m tests.benchmarks.load_memory [--model gpt-j-405m-synthetic|DIR] [--json] [--save FILE]

Every case runs in a separate process, which loads the built-in model first, so that libraries and thread pools are not counted.
`ratio` is the growth of resident memory at its peak, divided by the bytes of the loaded weights. The goal on the CPU is a ratio
of at most 1.15. If the model is loaded to a GPU, the weights are not on the host; then the goal is that the peak is at most the
size of the checkpoint's largest file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.measure import Record, peak_host_memory
from labkit.precision import DTYPES

GOAL = 1.15
SHARD_BYTES = 200_000_000


@dataclass(frozen=True)
class Case:
    """A model, the layout of its files, the device and the dtype; `file_bytes` is the size of its largest file."""

    model: str
    layout: str
    device: str
    dtype: str
    file_bytes: int = 0


def measure(case: Case) -> dict[str, Any]:
    """Load the model once in this process, and return how much memory and time the loading needed."""
    labkit.load("gptj-tiny", device=case.device, dtype=case.dtype).logits([1])
    started = time.perf_counter()
    with peak_host_memory() as peak:
        engine = labkit.load(case.model, device=case.device, dtype=case.dtype)
    seconds = time.perf_counter() - started
    weights = engine.config.parameter_count * DTYPES[case.dtype].itemsize
    if not bool(engine.logits([1, 2, 3]).std() > 0):
        raise SystemExit(f"{case.model} gives constant logits: nothing was loaded")
    return {"weights_bytes": weights, "host_peak_bytes": peak.bytes, "seconds": round(seconds, 2)}


def run(case: Case) -> dict[str, Any]:
    """Measure one case in a new process, and return its row."""
    row: dict[str, Any] = {"layout": case.layout, "device": case.device, "dtype": case.dtype}
    if case.device == "cuda" and not torch.cuda.is_available():
        return row | {"status": "not measured here: no GPU"}
    command = [sys.executable, "-m", "tests.benchmarks.load_memory", "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{row}: {done.stderr.strip()}")
    row |= json.loads(done.stdout.splitlines()[-1])
    row["ratio"] = round(row["host_peak_bytes"] / row["weights_bytes"], 3)
    if case.device == "cuda":
        kept = row["host_peak_bytes"] <= case.file_bytes
    else:
        kept = row["ratio"] <= GOAL
    return row | {"status": "goal met" if kept else "GOAL MISSED"}


def write_checkpoints(model: str, directory: Path) -> dict[str, Path]:
    """Write the synthetic weights of a named shape to files, in half precision, in each layout that labkit reads."""
    checkpoint = open_checkpoint(model)
    layouts = {layout: directory / layout.replace(" ", "-") for layout in ("one file", "sharded", "pytorch_model.bin")}
    weights = {name: checkpoint.read(name) for name in checkpoint.tensor_names()}
    for path in layouts.values():
        path.mkdir()
        (path / "config.json").write_text(json.dumps(checkpoint.config.to_dict()))
    save_file(weights, layouts["one file"] / "model.safetensors")
    torch.save(weights, layouts["pytorch_model.bin"] / "pytorch_model.bin")
    _write_shards(weights, layouts["sharded"])
    return layouts


def _write_shards(weights: dict[str, torch.Tensor], directory: Path) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in weights.items():
        if shards[-1] and sum(part.nbytes for part in shards[-1].values()) + tensor.nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, directory / file)
        weight_map |= dict.fromkeys(shard, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def cases(model: str, directory: Path) -> list[Case]:
    """Return the cases to measure, each for several devices and dtypes.

    If `model` is a directory, its files are loaded as they are. Otherwise `model` is the name of a shape; it is measured with
    synthetic weights, and with files of every layout.
    """
    if Path(model).is_dir():
        sources = {"as it is": Path(model)}
        found = []
    else:
        sources = write_checkpoints(model, directory)
        found = [Case(model, "synthetic", "cpu", dtype) for dtype in ("fp16", "fp32")]
    for layout, path in sources.items():
        largest = max(file.stat().st_size for file in path.iterdir() if file.is_file())
        targets = (("cpu", "fp16"), ("cpu", "fp32"), ("cuda", "fp16"))
        found += [Case(str(path), layout, device, dtype, largest) for device, dtype in targets]
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of text."""
    lines = [f"{'layout':<18} {'device':<6} {'dtype':<5} {'weights MB':>10} {'peak MB':>9} {'ratio':>6} {'s':>6}  status"]
    for row in rows:
        lead = f"{row['layout']:<18} {row['device']:<6} {row['dtype']:<5}"
        if "ratio" not in row:
            lines.append(f"{lead} {'':>10} {'':>9} {'':>6} {'':>6}  {row['status']}")
            continue
        figures = f"{row['weights_bytes'] / 1e6:>10.0f} {row['host_peak_bytes'] / 1e6:>9.0f} {row['ratio']:>6.3f}"
        lines.append(f"{lead} {figures} {row['seconds']:>6.1f}  {row['status']}")
    return "\n".join(lines)


def main() -> None:
    """Measure all cases; the last line of stdout is the record as JSON. The exit status is 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description="Peak host memory of labkit.load, divided by the bytes of the weights.")
    parser.add_argument("--model", default="gpt-j-405m-synthetic", help="a synthetic model's name or a directory")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(Case(**json.loads(options.case)))))
        return
    with tempfile.TemporaryDirectory() as directory:
        rows = [run(case) for case in cases(options.model, Path(directory))]
    name = Path(options.model).name
    record = Record("load_memory", {"model": name, "goal": GOAL, "shard_bytes": SHARD_BYTES}, rows)
    if options.save:
        record.save(options.save)
    if not options.json:
        print(table(rows))
    print(json.dumps(record.to_dict()))
    if any(row["status"] == "GOAL MISSED" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
