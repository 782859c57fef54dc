"""Draws quality against bits per weight, and tokens per second against bits per weight, from records.

    python -m tests.benchmarks.compress_plot docs/compression_quality.png

The quality is from `cpu_compress_quality_gptj_tiny.json`. The speeds are from the records of `labkit bench` for a model with
405 M parameters, which decodes one sequence in formats that have kernels. Quality and speed are from different models, because
gptj-tiny is so small that its speed hardly depends on the bytes of its weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from labkit.compress.plots import quality_plot
from labkit.measure import Record

RESULTS = Path(__file__).parent / "results"
QUALITY = RESULTS / "cpu_compress_quality_gptj_tiny.json"
STORED_BITS = {"bf16": 16.0, "int8": 8.0, "int4": 4.5}
"""Bits per weight of the formats of `labkit bench`, including their scales. int4 has a scale for each group of 32 weights; int8
has a scale for each row.
"""


def quality_lines(record: Record) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return the points of each algorithm: bits per weight, change of perplexity in percent, and this change's interval."""
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in record.rows:
        method, _, options = row["row"].partition(" ")
        name = "mixed bits (gptq)" if method == "mixed" else method.partition("-")[2] or "rtn"
        name += ", zero points" if "--asymmetric" in options else ""
        name = "signs (one bit, stored in two)" if method.startswith("int1") else name
        change = row["weights"]["change"]
        lines.setdefault(name, []).append((row["bits_per_weight"], change["value"], *change["interval"]))
    return lines


def speeds(precisions: dict[str, float]) -> list[tuple[float, float]]:
    """Return bits per weight, and labkit's tokens per second for one sequence, for each precision in `precisions`."""
    found = []
    for precision, bits in precisions.items():
        record = Record.load(RESULTS / f"cpu_gpt_j_405m_{precision}.json")
        found += [(bits, row["tokens_per_second"]) for row in record.rows if (row["engine"], row["batch"]) == ("labkit", 1)]
    return found


def main() -> None:
    """Draw the figure into a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    record = Record.load(QUALITY)
    caption = f"Above: {record.caption()}\nBelow: a GPT-J of 405 M parameters on the same kind of machine, batch 1"
    quality_plot(quality_lines(record), speeds={"labkit, kernels": speeds(STORED_BITS)}, caption=caption).savefig(asked.out)


if __name__ == "__main__":
    main()
