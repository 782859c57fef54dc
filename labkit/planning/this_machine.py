"""Predicts results of `labkit bench` on the machine that made the records: fits some rows, and predicts the other rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from labkit.checkpoints import config_of
from labkit.errors import InvalidRequest
from labkit.measure.ceilings import Ceilings
from labkit.measure.record import Record
from labkit.planning.catalogue import this_machine
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import CPU, CPU_WIDTHS
from labkit.planning.fit import Fit, Measurement, fit
from labkit.planning.shape import Shape

FOLDER = Path(__file__).parent / "published"
FITTED_MODEL = "gpt-j-405m-synthetic"
FITTED_BATCH = 1
"""By default, only rows with the model `FITTED_MODEL` and this batch size are fitted. All other rows are predicted."""
RECORDS = Path("tests/benchmarks/results")
"""The project's folder of records, relative to the project's root."""


@dataclass(frozen=True)
class BenchRow:
    """One measured time from a record: the time of a prefill or of a decode step of labkit."""

    model: str
    measurement: Measurement
    batch: int


@dataclass(frozen=True)
class VerifiedRow:
    """A measured time and its prediction, in milliseconds. `fitted`: whether the fit used this measurement."""

    model: str
    precision: str
    batch: int
    what: str
    fitted: bool
    measured_ms: float
    predicted_ms: float
    low_ms: float
    high_ms: float
    dominated_by: str
    tensor_parallel: int = 1

    @property
    def error(self) -> float:
        """The relative error: 0.1 means that the predicted time is 10 % too long."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Verified:
    """All rows with their predictions."""

    rows: list[VerifiedRow]
    found: Fit

    def predicted_errors(self) -> list[float]:
        """Return the errors of the rows that were not fitted, or of all rows if all of them were fitted."""
        return [row.error for row in self.rows if not row.fitted] or [row.error for row in self.rows]

    def summary(self) -> str:
        """Return one or two sentences with the median and the worst error of the predicted rows."""
        found = self.predicted_errors()
        fitted = sum(row.fitted for row in self.rows)
        inside = [row.low_ms <= row.measured_ms <= row.high_ms for row in self.rows if not row.fitted]
        share = f" {100 * float(np.mean(inside)):.0f} % of them are inside their interval." if inside else ""
        return (
            f"{fitted} numbers fitted, {len(found)} predicted: median error {100 * float(np.median(np.abs(found))):.1f} %, "
            f"worst {100 * max(found, key=abs):+.0f} %.{share}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The rows as plain values."""
        found = self.predicted_errors()
        return {
            "rows": [asdict(row) | {"error": row.error} for row in self.rows],
            "median_error": float(np.median(np.abs(found))),
            "worst_error": max(found, key=abs),
            "efficiencies": self.found.found.to_dict(),
        }


def bench_rows(records: str | Path | None = None) -> list[BenchRow]:
    """Read the rows that labkit measured on one CPU rank. `records` is a record, or a folder with records.

    In a folder, the files `cpu_gpt*.json` and `cpu_parallel*.json` are read. The device of each row has the memory bandwidth
    that was measured in the same rounds as the row. Raises `InvalidRequest` if there is no such record.
    """
    place = RECORDS if records is None else Path(records)
    patterns = ("cpu_gpt*.json", "cpu_parallel*.json")
    found = [path for pattern in patterns for path in sorted(place.glob(pattern))]
    paths = found if place.is_dir() else [place] if place.exists() else []
    rows = [row for path in paths for row in _rows_of(Record.load(path))]
    if not rows:
        raise InvalidRequest(
            f"{place} holds no record of `labkit bench` on a CPU; with --records, name a record of `labkit bench --save "
            "FILE`, or a folder with such records"
        )
    return rows


def _rows_of(record: Record) -> list[BenchRow]:
    if record.kind != "bench" or record.settings.get("device") != "cpu":
        return []
    settings, machine = record.settings, record.machine
    name = str(settings["model"])
    shape = Shape.of_config(config_of(name), name)
    found = []
    for row in record.rows:
        if row["engine"] != "labkit":
            continue
        limits = record.extra["ceilings"] | {"read_bytes_per_second": row["read_bytes_per_second"]}
        device = this_machine(
            Ceilings(**limits),
            memory_bytes=float(machine["memory_bytes"]),
            instruction_sets=tuple(machine["cpu"]["instruction_sets"]),
        )
        plan = Deployment(
            shape,
            device,
            precision=row["precision"],
            batch=row["batch"],
            input_tokens=settings["prompt_tokens"],
            output_tokens=settings["new_tokens"],
        )
        times = {"prefill": row["prefill_ms"], "decode": row["decode_ms_per_token"]}
        found += [BenchRow(name, Measurement(plan, ms / 1e3, what), row["batch"]) for what, ms in times.items()]
    return found


def is_fitted(row: BenchRow) -> bool:
    """Whether a row is fitted by default."""
    return row.model == FITTED_MODEL and row.batch == FITTED_BATCH


def verify(rows: Sequence[BenchRow], fitted: Callable[[BenchRow], bool] = is_fitted) -> Verified:
    """Fit the rows that `fitted` accepts, and predict all rows. If it accepts none, the rows of batch size 1 are fitted."""
    chosen = [row for row in rows if fitted(row)] or [row for row in rows if row.batch == 1] or list(rows)
    found = fit([row.measurement for row in chosen], start=CPU, widths=CPU_WIDTHS)
    verified = []
    for row in rows:
        plan, what = row.measurement.plan, row.measurement.what
        predicted = found.predict(plan, what)
        ends = (1e3 * predicted.seconds, 1e3 * predicted.low, 1e3 * predicted.high)
        measured = 1e3 * row.measurement.seconds
        verified.append(
            VerifiedRow(row.model, plan.precision, row.batch, what, row in chosen, measured, *ends, predicted.dominated_by)
        )
    return Verified(verified, found)


@cache
def cpu_fit() -> Fit:
    """The fit of labkit's engine on a CPU, from the committed records of `labkit bench`."""
    return Fit.from_dict(json.loads((FOLDER / "cpu_fit.json").read_text("utf-8")))
