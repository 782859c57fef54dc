"""Predicts the speed of plans, runs the best few on this machine, and compares the predictions with the measurements.

The predictions come from a fit to a few other batches of the same model (`labkit.bench.calibration`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from labkit.bench.calibration import calibrate, key_of, measured
from labkit.bench.run import run_bench
from labkit.bench.settings import BenchSettings
from labkit.checkpoints import config_of
from labkit.environment import Machine, describe
from labkit.errors import InvalidRequest
from labkit.measure import Ceilings, Record, ceilings
from labkit.planning.catalogue import Device, this_machine
from labkit.planning.deployment import Deployment, does_not_divide
from labkit.planning.fit import Fit
from labkit.planning.memory import fits
from labkit.planning.published import default_fit
from labkit.planning.shape import Shape
from labkit.planning.this_machine import Verified, VerifiedRow, cpu_fit
from labkit.precision import as_device


@dataclass(frozen=True)
class CheckSettings:
    """The plans to compare: all combinations of batches, precisions and numbers of shards.

    Only the best `best` of these plans are run. `seconds` limits the time of each plan. Raises `InvalidRequest` for empty
    lists and numbers below 1.
    """

    model: str = "gptj-tiny"
    batches: tuple[int, ...] = (1, 4, 16)
    precisions: tuple[str, ...] = ("fp32", "bf16", "int8", "int4")
    tensor_parallel: tuple[int, ...] = (1, 2)
    prompt_tokens: int = 64
    new_tokens: int = 32
    best: int = 4
    seconds: float = 5.0
    device: str | None = None

    def __post_init__(self) -> None:
        lists = {"batch": self.batches, "tensor_parallel": self.tensor_parallel}
        if wrong := [name for name, values in lists.items() if not values or min(values) < 1]:
            raise InvalidRequest(f"{wrong[0]} is {lists[wrong[0]]}; one or more whole numbers of at least 1 are accepted")
        if not self.precisions or self.best < 1:
            raise InvalidRequest(f"{self.best} plans in {len(self.precisions)} precisions; at least one of each is accepted")


def measured_device(limits: Ceilings, machine: Machine) -> Device:
    """Describe this machine as a device for the planner, with its measured limits."""
    on_gpu = limits.device.startswith("cuda")
    memory = machine.gpus[0].memory_bytes if on_gpu else machine.memory_bytes
    return this_machine(limits, memory_bytes=float(memory), instruction_sets=tuple(machine.cpu.instruction_sets))


def fit_of(device: Device) -> Fit:
    """The fit of the prediction model that comes with labkit for this kind of device (CPU or GPU)."""
    return cpu_fit() if device.kind == "cpu" else default_fit()


def best_plans(settings: CheckSettings, device: Device, found: Fit) -> list[Deployment]:
    """The plans with the most predicted new tokens per second on the whole machine, best first. Nothing is measured.

    Raises `InvalidRequest` if no plan fits into the memory, or if the model cannot be divided into any of the numbers of
    shards.
    """
    shape = Shape.of_config(config_of(settings.model), settings.model)
    divisors = [count for count in settings.tensor_parallel if not does_not_divide(shape, count, 1)]
    if not divisors:
        raise InvalidRequest(does_not_divide(shape, settings.tensor_parallel[0], 1))
    plans = [
        Deployment(shape, device, shards, 1, precision, batch, settings.prompt_tokens, settings.new_tokens)
        for shards in divisors
        for precision in settings.precisions
        for batch in settings.batches
    ]
    plans = [plan for plan in plans if fits(plan)]
    if not plans:
        raise InvalidRequest(
            f"{settings.model} does not fit into the memory of this machine in {', '.join(settings.precisions)}"
        )
    return sorted(plans, key=lambda plan: found.predict(plan).seconds / plan.batch)[: settings.best]


def check_plans(
    settings: CheckSettings,
    progress: Callable[[str], None] = lambda message: None,
    announce: Callable[[list[Deployment], Fit], None] = lambda plans, found: None,
) -> Verified:
    """Calibrate on this machine, choose the best plans, run them, and compare the predictions with the measurements.

    Before the plans run, `announce` gets them as a list. A plan that cannot be measured on this machine has no row; `progress`
    says why. The rows hold the milliseconds of the prefill and of a decode step. Raises the same errors as `best_plans` and
    `run_bench`.
    """
    config_of(settings.model)  # refuse an unknown model before anything is measured
    device = as_device(settings.device)
    progress(f"measuring the limits of {device}")
    limits = ceilings(device)
    if limits.disturbed:
        progress(f"{limits.disturbed}; so the predictions are too slow")
    chosen = measured_device(limits, describe())
    start = fit_of(chosen)
    plans = best_plans(settings, chosen, start)
    calibration = calibrate(partial(_bench_of, settings), plans, start, progress)
    plans, found = [replace(plan, device=calibration.device) for plan in plans], calibration.found
    fitted = {key_of(row.plan) for row in calibration.rows}
    announce(plans, found)
    rows: list[VerifiedRow] = []
    for (precision, shards), batches in _groups(plans).items():
        record = run_bench(_bench_of(settings, precision, shards, batches), progress)
        mine = [plan for plan in plans if (plan.precision, plan.tensor_parallel) == (precision, shards)]
        rows += rows_from(record, mine, found, fitted)
    return Verified(rows, found)


def _groups(plans: Sequence[Deployment]) -> dict[tuple[str, int], list[int]]:
    """Group the batch sizes of the plans by precision and number of shards."""
    groups: dict[tuple[str, int], list[int]] = {}
    for plan in plans:
        groups.setdefault((plan.precision, plan.tensor_parallel), []).append(plan.batch)
    return groups


def _bench_of(settings: CheckSettings, precision: str, shards: int, batches: Sequence[int]) -> BenchSettings:
    return BenchSettings(
        model=settings.model,
        batches=tuple(sorted(batches)),
        prompt_tokens=settings.prompt_tokens,
        new_tokens=settings.new_tokens,
        precisions=(precision,),
        device=settings.device,
        against=(),
        seconds=settings.seconds,
        tensor_parallel=(shards,),
    )


def rows_from(
    record: Record, plans: Sequence[Deployment], found: Fit, fitted: Collection[tuple[str, int, int]] = ()
) -> list[VerifiedRow]:
    """Make two rows for each plan in the record, one for the prefill and one for a decode step.

    Each row has the predicted and the measured time. `fitted` holds the `key_of` of each plan that the fit was made from.
    """
    return [
        _row(plan, what, seconds, found, key_of(plan) in fitted)
        for plan in plans
        for what, seconds in measured(record, plan).items()
    ]


def _row(plan: Deployment, what: str, seconds: float, found: Fit, fitted: bool) -> VerifiedRow:
    predicted = found.predict(plan, what)
    ends = (1e3 * predicted.seconds, 1e3 * predicted.low, 1e3 * predicted.high)
    name, shards = plan.shape.name, plan.tensor_parallel
    return VerifiedRow(name, plan.precision, plan.batch, what, fitted, 1e3 * seconds, *ends, predicted.dominated_by, shards)


def save(report: Verified, settings: CheckSettings, path: str | Path) -> Path:
    """Write the comparison as a record."""
    return Record("planning on this machine", vars(settings).copy(), [report.to_dict()]).save(path)
