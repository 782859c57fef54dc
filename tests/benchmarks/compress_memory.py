"""Measures the time and the peak host memory of `labkit compress` on a model that is much larger than one block.

    python -m tests.benchmarks.compress_memory [--model gpt-j-6b-synthetic|DIR] [--rows "int4-rtn;int4-mse"]
        [--work FOLDER] [--save FILE]

Every row runs in a separate process, which compresses the built-in model first, so that libraries and thread pools are not
counted. `host_peak_bytes` is the growth of resident memory at its peak; the hidden states of the calibration windows are part
of it. The goal is that it is at most the size of the written directory plus two blocks, in the dtype of the source. The last
line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.compress import compress, method_named
from labkit.compress.calibration import CalibrationText
from labkit.measure import Record, peak_host_memory
from tests.benchmarks.compress_quality import run_row

ROWS = ("int8-rtn", "int4-rtn", "int4-mse")


def block_bytes(checkpoint: Checkpoint) -> int:
    """The bytes of the matrices of one block, in the dtype in which the model is stored."""
    shapes = {name: shape for name, shape in expected_shapes(checkpoint.config).items() if ".h.0." in name and len(shape) == 2}
    return sum(math.prod(shape) * checkpoint.stored_dtype(name).itemsize for name, shape in shapes.items())


def measure(arguments: str, model: str, folder: Path) -> dict[str, Any]:
    """Compress the model once in this process, and return the time, the peak memory and the sizes."""
    with tempfile.TemporaryDirectory() as warm:
        compress("gptj-tiny", Path(warm) / "tiny", method_named("int4-rtn"))
    started = time.perf_counter()
    with peak_host_memory() as peak:
        row = run_row(arguments, model, folder, CalibrationText.read())
    seconds = time.perf_counter() - started
    written, block = sum(file.stat().st_size for file in folder.glob("*.safetensors")), block_bytes(open_checkpoint(model))
    goal = written + 2 * block
    return {
        "row": arguments,
        "bits_per_weight": row["bits_per_weight"],
        "seconds": round(seconds, 1),
        "host_peak_bytes": peak.bytes,
        "written_bytes": written,
        "block_bytes": block,
        "ratio": round(peak.bytes / goal, 3),
        "status": "goal met" if peak.bytes <= goal else "GOAL MISSED",
    }


def main() -> None:
    """Measure all rows, print them, and write the record; the last line of the output is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt-j-6b-synthetic", help="a synthetic model's name or a directory")
    parser.add_argument("--rows", default=";".join(ROWS), help="arguments of methods, separated by semicolons")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="the folder in which the directories are written for the time of a row")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    if asked.row:
        with tempfile.TemporaryDirectory(dir=asked.work) as folder:
            print(json.dumps(measure(asked.row, asked.model, Path(folder) / "out")))
        return
    rows: list[dict[str, Any]] = []
    print(f"{'row':<24} {'bits':>5} {'written MB':>11} {'block MB':>9} {'peak MB':>8} {'ratio':>6} {'s':>7}  status")
    for arguments in map(str.strip, asked.rows.split(";")):
        command = [sys.executable, "-m", "tests.benchmarks.compress_memory", "--row", arguments, "--model", asked.model]
        command += ["--work", str(asked.work)] if asked.work else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        megabytes = [row[name] / 1e6 for name in ("written_bytes", "block_bytes", "host_peak_bytes")]
        figures = f"{megabytes[0]:>11.0f} {megabytes[1]:>9.0f} {megabytes[2]:>8.0f} {row['ratio']:>6.3f} {row['seconds']:>7.1f}"
        print(f"{arguments:<24} {row['bits_per_weight']:>5.2f} {figures}  {row['status']}", flush=True)
        record = Record("compress_memory", {"model": asked.model, "device": "cpu"}, rows)
        if asked.save:
            record.save(asked.save)
    print(json.dumps(record.to_dict()))


if __name__ == "__main__":
    main()
