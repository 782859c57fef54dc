"""Writes a CSV file with the columns of NeMo-Megatron's inference search.

The columns are the same as in NeMo-Megatron's `auto_configurator/autoconfig/inference_summary.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from labkit.home import write_atomically
from labkit.planning.search import Plan

COLUMNS = ("TP", "PP", "BS", "Latency [ms]", "Throughput per GPU [samples/sec/gpu]")
"""The columns of `final_output.csv`, which NeMo-Megatron's inference search writes."""
OURS = ("Precision", "Low [ms]", "High [ms]", "Memory per GPU [GiB]", "Dominated by", "Instances")
"""labkit's additional columns. They come last, so that programs that read `final_output.csv` still find their columns."""


def write_csv(path: str | Path, plans: Sequence[Plan]) -> Path:
    """Write the plans atomically, one per line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *OURS))
    for one in plans:
        plan, predicted = one.plan, one.predicted
        theirs = (plan.tensor_parallel, plan.pipeline_parallel, plan.batch, f"{1e3 * predicted.seconds:.2f}")
        ends = (f"{1e3 * predicted.low:.2f}", f"{1e3 * predicted.high:.2f}", f"{one.memory.total / 2**30:.2f}")
        row = (*theirs, f"{one.samples_per_second_per_gpu:.4f}", plan.precision, *ends, predicted.dominated_by, one.instances)
        writer.writerow(row)
    write_atomically(Path(path), text.getvalue())
    return Path(path)
