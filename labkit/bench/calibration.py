"""Calibrates the prediction model for one model on this machine, with a few short measurements.

Two things are measured: how fast labkit's own kernels multiply large matrices, and how long a few batches of the model take. A
data sheet or a fit from other machines gives neither: the kernels reach different shares of the limits in each precision, and a
small model stays in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from labkit import ops
from labkit.bench.parallel_engine import of_layout
from labkit.bench.run import run_bench
from labkit.bench.settings import BenchSettings
from labkit.measure import Record
from labkit.measure.ceilings import rate_of
from labkit.model.weight_store import weight_store
from labkit.parallel import Layout
from labkit.planning.catalogue import Device
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import CPU_WIDTHS, GPU_WIDTHS
from labkit.planning.fit import Fit, Measurement, fit
from labkit.precision import compute_dtype

SIZE = 1024
"""The number of rows, of inputs and of outputs of each timed product."""
BATCHES = 2, 8
"""The batch sizes that are measured. With several ranks, only the first batch size is measured.

A single sequence is not among them: its short prefill varies most from run to run.
"""


@dataclass(frozen=True)
class Calibration:
    """The device with the rates of labkit's kernels, the measured times, and the fit to these times."""

    device: Device
    rows: tuple[Measurement, ...]
    found: Fit


def product_rates(device: torch.device, precisions: Sequence[str], seconds: float = 0.5) -> dict[str, float]:
    """The FLOPs per second of the engine's matrix products in each precision: the fastest product within `seconds`."""
    generator = torch.Generator("cpu").manual_seed(0)
    x, dense = (torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float32, device="cpu").to(device) for _ in range(2))
    rates = {}
    for precision in precisions:
        weight = weight_store(precision, device)("layer", dense)
        rows = x.to(compute_dtype(precision, device))
        rates[precision] = rate_of(partial(ops.linear, rows, weight), SIZE, device, seconds)
    return rates


def calibrate(
    bench: Callable[[str, int, Sequence[int]], BenchSettings],
    plans: Sequence[Deployment],
    start: Fit,
    progress: Callable[[str], None] = lambda message: None,
) -> Calibration:
    """Measure what `plans` need, and fit the prediction model to it.

    bench: makes the settings of a run from a precision, the number of ranks and the batches. plans: their device, their
    precisions and their numbers of ranks are used; they must have one device. start: the efficiencies from which the fit
    begins. A combination that cannot be measured here is left out; `progress` says why. Raises the same errors as `run_bench`.
    """
    first = plans[0]
    precisions = sorted({plan.precision for plan in plans})
    progress("measuring the matrix products of labkit's kernels")
    rates = product_rates(torch.device("cuda" if first.device.kind == "gpu" else "cpu"), precisions)
    device = replace(first.device, flops_per_second=first.device.flops_per_second | rates)
    rows: list[Measurement] = []
    for precision, ranks in sorted({(plan.precision, plan.tensor_parallel) for plan in plans}):
        batches = BATCHES if ranks == 1 else BATCHES[:1]
        record = run_bench(bench(precision, ranks, batches), progress)
        for batch in batches:
            plan = replace(first, device=device, precision=precision, tensor_parallel=ranks, batch=batch)
            rows += [Measurement(plan, seconds, what) for what, seconds in measured(record, plan).items()]
    widths = GPU_WIDTHS if device.kind == "gpu" else CPU_WIDTHS
    found = fit(rows, start=start.found, widths=widths, source="a calibration on this machine") if rows else start
    return Calibration(device, tuple(rows), found)


def key_of(plan: Deployment) -> tuple[str, int, int]:
    """The precision, number of shards and batch of a plan."""
    return plan.precision, plan.tensor_parallel, plan.batch


def measured(record: Record, plan: Deployment) -> dict[str, float]:
    """The seconds of the prefill and of a decode step of a plan, from a record of `run_bench`.

    Empty if the record has no row of the plan.
    """
    shards = plan.tensor_parallel
    engine = "labkit" if shards == 1 else of_layout(Layout(tensor_parallel=shards)).name
    for row in record.rows:
        if (row["engine"], row["precision"], row["batch"]) == (engine, plan.precision, plan.batch):
            return {"prefill": 1e-3 * row["prefill_ms"], "decode": 1e-3 * row["decode_ms_per_token"]}
    return {}
