"""The benchmark of the overhead of a step: every timed step decodes every sequence, and the output says what was measured."""

from __future__ import annotations

import json
import sys

import pytest

from tests.benchmarks import engine_overhead


def test_the_benchmark_prints_a_row_for_each_batch_and_way_of_sampling(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--batches", "1,3", "--steps", "15", "--vocab", "40", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["engine_overhead", *options])
    engine_overhead.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["batch"], row["sampling"]) for row in printed["rows"]] == [
        (batch, way) for batch in (1, 3) for way in ("greedy", "temperature and top-p")
    ]
    for row in printed["rows"]:
        assert 0 < row["overhead_us"] < row["step_us"]
        assert row["goal_us"] == 100 + 5 * row["batch"]
        assert row["within_goal"] == (row["overhead_us"] <= row["goal_us"])
