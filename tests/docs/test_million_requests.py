"""The page about a million requests a day has the same table and figures as the record of the simulation."""

from __future__ import annotations

import json

from labkit.planning.memory import gib, memory_of
from tests.benchmarks.million_requests import PEAK, RECORD, REQUESTS_A_DAY, ROOT, best_plan, meets_row, table_of

PAGE = (ROOT / "docs/million_requests.md").read_text("utf-8")


def test_the_table_is_that_of_the_record() -> None:
    record = json.loads(RECORD.read_text("utf-8"))
    assert table_of(record["rows"]) in PAGE


def test_the_plan_and_the_rate_are_those_of_the_command() -> None:
    record, plan = json.loads(RECORD.read_text("utf-8")), best_plan()
    assert record["settings"]["plan"] == plan.label
    assert f"TP {plan.tensor_parallel} x PP {plan.pipeline_parallel}, batch {plan.batch}" in PAGE
    assert f"{gib(memory_of(plan).total):.1f} GiB" in PAGE
    assert f"{REQUESTS_A_DAY / 86_400 * PEAK:.1f} requests per second" in PAGE


def test_the_smallest_number_that_is_enough_is_said() -> None:
    rows = json.loads(RECORD.read_text("utf-8"))["rows"]
    enough = next(row["instances"] for row in rows if row["what"] == "instances" and meets_row(row))
    assert f"**{enough} instances**" in PAGE
    assert f"{8 * enough} GPUs" in PAGE
