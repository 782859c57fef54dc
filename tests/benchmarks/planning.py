"""Compares `labkit plan` with published tables and with the records of `labkit bench`; writes a record and two figures.

It also writes the fits that labkit ships: `labkit/planning/published/*_fit.json`. It measures nothing and takes seconds.
Run: `.venv/bin/python -m tests.benchmarks.planning`
"""

from __future__ import annotations

import json
from pathlib import Path

from labkit.home import write_atomically
from labkit.measure import Record
from labkit.planning.efficiencies import CPU, CPU_WIDTHS
from labkit.planning.fit import Fit, with_spread_of_left_out
from labkit.planning.plots import validation_plot
from labkit.planning.published import FASTERTRANSFORMER, FOLDER, fastertransformer, measurements
from labkit.planning.this_machine import bench_rows, verify
from labkit.planning.validation import FITTED_MODEL, validate

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests/benchmarks/results"
CPU_SOURCE = "records of labkit bench on 2 cores of an AMD EPYC (tests/benchmarks/results)"


def shipped_fits() -> dict[str, Fit]:
    """Make the fits that labkit ships again; return them by file name."""
    gpu = with_spread_of_left_out(measurements(fastertransformer()), lambda row: row.plan.shape.name, source=FASTERTRANSFORMER)
    rows = [row.measurement for row in bench_rows(RESULTS)]
    settings = {"start": CPU, "widths": CPU_WIDTHS, "source": CPU_SOURCE}
    return {
        "fastertransformer_fit.json": gpu,
        "cpu_fit.json": with_spread_of_left_out(rows, lambda row: row.plan.shape.name, **settings),
    }


def main() -> None:
    """Write the fits, the record and the figures."""
    for name, found in shipped_fits().items():
        write_atomically(FOLDER / name, json.dumps(found.to_dict(), indent=1) + "\n")
        print(f"{name}: {found.rows} rows, spread of models left out {100 * found.spread:.1f} %")
    report = validate()
    for part in report.parts:
        print(f"{part.title}: {part.summary()}")
    print(f"lecture: {report.lecture_summary()}\n{report.memory_summary()}")
    bench = verify(bench_rows(RESULTS))
    print(f"labkit bench: {bench.summary()}")
    record = Record("planning", {"fitted": FITTED_MODEL}, [report.to_dict()], extra={"bench": bench.to_dict()})
    print(f"record written to {record.save(RESULTS / 'planning.json')}")
    validation_plot(report).savefig(ROOT / "docs/planning.png")
    print("figure written to docs/planning.png")


if __name__ == "__main__":
    main()
