"""Tests of `labkit plan --verify`.

They check which plans are run, and whether each row has the measurement and the prediction of one plan.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.bench.plan_check import CheckSettings, best_plans, check_plans, fit_of, measured_device, rows_from, save
from labkit.environment import describe
from labkit.errors import InvalidRequest
from labkit.measure import Ceilings, Record
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
