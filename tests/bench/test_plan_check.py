"""Tests of `labkit plan --verify`.

They check which plans are run, and whether each row has the measurement and the prediction of one plan.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from labkit.bench.calibration import calibrate, key_of, product_rates
from labkit.bench.plan_check import CheckSettings, best_plans, check_plans, fit_of, measured_device, rows_from, save
from labkit.bench.settings import BenchSettings
from labkit.environment import describe
from labkit.errors import InvalidRequest
from labkit.measure import Ceilings, Record
from labkit.planning.catalogue import Device
from labkit.planning.deployment import Deployment
from labkit.planning.fit import WHATS, Fit
from labkit.planning.this_machine import Verified

LIMITS = Ceilings("cpu", 2, 2e10, {"fp32": 1e11, "bf16": 3e11})
DEVICE = measured_device(LIMITS, describe())
FOUND = fit_of(DEVICE)


def test_the_best_plans_are_those_with_the_most_tokens() -> None:
    settings = CheckSettings(batches=(1, 2, 16), precisions=("fp32", "int8"), best=5)
    plans = best_plans(settings, DEVICE, FOUND)
    rates = [plan.batch / FOUND.predict(plan).seconds for plan in plans]
    assert rates == sorted(rates, reverse=True)
    assert len(plans) == 5
    assert {plan.batch for plan in plans[:2]} == {16}
    every = best_plans(CheckSettings(batches=(1, 2, 16), precisions=("fp32", "int8"), best=99), DEVICE, FOUND)
    assert len(every) == 12
    assert every[:5] == plans


def test_shards_that_do_not_divide_are_left_out() -> None:
    assert {plan.tensor_parallel for plan in best_plans(CheckSettings(tensor_parallel=(1, 3)), DEVICE, FOUND)} == {1}
    with pytest.raises(InvalidRequest, match="tensor_parallel 3 does not divide"):
        best_plans(CheckSettings(tensor_parallel=(3,)), DEVICE, FOUND)


@pytest.mark.parametrize(
    "wrong", [{"batches": ()}, {"batches": (0,)}, {"tensor_parallel": (0,)}, {"precisions": ()}, {"best": 0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="accepted"):
        CheckSettings(**wrong)


def test_a_row_belongs_to_its_plan() -> None:
    plans = best_plans(CheckSettings(batches=(1, 4), precisions=("fp32",), best=4), DEVICE, FOUND)
    rows: list[dict[str, Any]] = []
    for place, engine in enumerate(("labkit", "labkit-tp2-pp1")):
        for batch in (1, 4):
            times = {"prefill_ms": 10 * batch + place, "decode_ms_per_token": batch + place / 10}
            rows.append({"engine": engine, "precision": "fp32", "batch": batch, **times})
    found = rows_from(Record("bench", {}, rows), plans, FOUND)
    assert len(found) == 8
    for row in found:
        place = row.tensor_parallel - 1
        right = 10 * row.batch + place if row.what == "prefill" else row.batch + place / 10
        assert row.measured_ms == pytest.approx(right)
        (plan,) = (plan for plan in plans if (plan.batch, plan.tensor_parallel) == (row.batch, row.tensor_parallel))
        assert row.predicted_ms == pytest.approx(1e3 * FOUND.predict(plan, row.what).seconds)
        assert row.low_ms < row.predicted_ms < row.high_ms
        assert not row.fitted


def test_a_calibration_predicts_other_batches_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for `run_bench` makes its times from efficiencies that are far from the typical ones."""
    rates = {"fp32": 2e11, "int8": 7e11}
    device = replace(DEVICE, flops_per_second=DEVICE.flops_per_second | rates)
    truth = replace(FOUND.found, read=1.3, compute=0.6, activation_passes=60.0, layer_seconds=6e-6, collective_seconds=2e-4)
    plans = best_plans(CheckSettings(batches=(1, 4, 16), precisions=("fp32", "int8"), best=12), DEVICE, FOUND)

    def times(plan: Deployment, what: str) -> float:
        return 1e3 * WHATS[what](replace(plan, device=device), truth).total

    def run(settings: BenchSettings, progress: Any) -> Record:
        (precision,), (ranks,) = settings.precisions, settings.tensor_parallel
        rows = []
        for batch in settings.batches:
            plan = replace(plans[0], precision=precision, tensor_parallel=ranks, batch=batch)
            found = {"prefill_ms": times(plan, "prefill"), "decode_ms_per_token": times(plan, "decode")}
            rows.append(
                {"engine": "labkit" if ranks == 1 else "labkit-tp2-pp1", "precision": precision, "batch": batch} | found
            )
        return Record("bench", {}, rows)

    def bench(precision: str, ranks: int, batches: Any) -> BenchSettings:
        return BenchSettings(batches=tuple(batches), precisions=(precision,), tensor_parallel=(ranks,))

    def error(found: Fit, machine: Device) -> float:
        each = [(replace(plan, device=machine), what, times(plan, what)) for plan in plans for what in ("prefill", "decode")]
        return median(abs(1e3 * found.predict(plan, what).seconds / time - 1) for plan, what, time in each)

    monkeypatch.setattr("labkit.bench.calibration.run_bench", run)
    monkeypatch.setattr("labkit.bench.calibration.product_rates", lambda device, precisions: rates)
    made = calibrate(bench, plans, FOUND)
    assert {key_of(row.plan) for row in made.rows} == {
        (precision, ranks, batch) for precision in rates for ranks, batch in ((1, 2), (1, 8), (2, 2))
    }
    assert error(FOUND, DEVICE) > 0.2
    assert error(made.found, made.device) < 0.05


def test_fitted_plans_are_marked() -> None:
    plans = best_plans(CheckSettings(batches=(1, 2), precisions=("fp32",), tensor_parallel=(1,)), DEVICE, FOUND)
    times = {"engine": "labkit", "precision": "fp32", "prefill_ms": 1.0, "decode_ms_per_token": 1.0}
    record = Record("bench", {}, [times | {"batch": batch} for batch in (1, 2)])
    rows = rows_from(record, plans, FOUND, {("fp32", 1, 2)})
    assert {(row.batch, row.fitted) for row in rows} == {(1, False), (2, True)}


def test_products_are_timed_in_each_precision() -> None:
    rates = product_rates(torch.device("cpu"), ("bf16", "int4"), seconds=0.05)
    assert rates.keys() == {"bf16", "int4"}
    assert all(1e8 < rate < 1e15 for rate in rates.values())


@pytest.mark.long
def test_two_plans_are_run_here(tmp_path: Path) -> None:
    settings = CheckSettings(
        batches=(1,), precisions=("fp32",), tensor_parallel=(1,), prompt_tokens=9, new_tokens=4, seconds=0.1
    )
    told: list[Any] = []
    report = check_plans(settings, announce=lambda plans, found: told.append((plans, found)))
    assert isinstance(report, Verified)
    assert [(row.what, row.batch) for row in report.rows] == [("prefill", 1), ("decode", 1)]
    assert all(row.measured_ms > 0 for row in report.rows)
    ((plans, found),) = told
    assert [row.predicted_ms for row in report.rows] == pytest.approx(
        [1e3 * found.predict(plans[0], what).seconds for what in ("prefill", "decode")]
    )
    kept = json.loads(save(report, settings, tmp_path / "check.json").read_text("utf-8"))
    assert kept["kind"] == "planning on this machine"
    assert kept["settings"]["model"] == "gptj-tiny"
