"""The output, files and figures of `labkit plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from labkit.cli import _register, app

ASKED = ["plan", "--model", "gpt-20b", "--gpus", "8", "--input-tokens", "60", "--output-tokens", "20", "--latency-ms", "600"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def done(place: Path) -> Result:
    _register()
    files = ["--csv", str(place / "plans.csv"), "--plot", str(place / "plans.png")]
    more = ["--precision", "fp16,int8", "--price", "2", "--rate", "20", "--json"]
    return CliRunner().invoke(app, [*ASKED, *more, *files])


def test_the_json_has_what_the_contract_says(done: Result) -> None:
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout.splitlines()[-1])
    keys = {"tensor_parallel", "pipeline_parallel", "batch", "precision", "latency_ms", "interval", "memory_bytes_per_gpu"}
    keys |= {"tokens_per_second_per_gpu", "dominated_by", "price_per_million_tokens", "joules_per_token"}
    for plan in values["plans"]:
        assert keys <= set(plan)
        assert plan["latency_ms"] <= 600
        assert plan["interval"][0] < plan["latency_ms"] < plan["interval"][1]
    assert values["load"]["requests"] == 1000
    assert values["load"]["latency"][1] > values["load"]["latency"][0] > 0


def test_the_table_fits_80_columns_and_names_what_dominates(done: Result) -> None:
    lines = done.stdout.splitlines()
    head = next(line for line in lines if "tok/s/GPU" in line)
    assert len(head.rstrip()) <= 80
    assert any(line.rstrip().endswith(("bytes", "FLOPs", "launches", "link", "bubble")) for line in lines)
    assert "extrapolated" in done.output
    assert "precision int8 was not measured" in done.output


def test_the_files_are_written(done: Result, place: Path) -> None:
    assert (place / "plans.csv").read_text().startswith("TP,PP,BS,Latency [ms]")
    assert (place / "plans.png").read_bytes().startswith(b"\x89PNG")


def test_a_csv_file_of_ones_own_calibrates(place: Path) -> None:
    _register()
    head = "model,gpu,tensor_parallel,pipeline_parallel,input_tokens,output_tokens,batch,latency_ms\n"
    (place / "slow.csv").write_text(head + "gpt-20b,a100-80gb,1,1,60,20,1,1200\ngpt-20b,a100-80gb,1,1,60,20,32,2000\n")
    call = ["plan", "--model", "gpt-20b", "--gpus", "1", "--batch", "1", "--input-tokens", "60", "--output-tokens", "20"]
    before, after = (
        json.loads(CliRunner().invoke(app, [*call, *more, "--json"]).stdout.splitlines()[-1])
        for more in ([], ["--calibrate", str(place / "slow.csv")])
    )
    assert after["fit"]["rows"] == 2
    assert 1.3 < after["plans"][0]["latency_ms"] / before["plans"][0]["latency_ms"] < 2.2


def test_a_budget_limits_the_gpus() -> None:
    _register()
    found = CliRunner().invoke(app, [*ASKED, "--price", "2", "--budget", "4.5", "--json"])
    plans = json.loads(found.stdout.splitlines()[-1])["plans"]
    assert {plan["tensor_parallel"] * plan["pipeline_parallel"] for plan in plans} <= {1, 2}


def test_validate_prints_the_errors_of_every_table() -> None:
    _register()
    found = CliRunner().invoke(app, ["plan", "--validate", "--json"])
    assert found.exit_code == 0
    assert "146 rows predicted: median error" in found.stdout
    assert json.loads(found.stdout.splitlines()[-1])["tables"][0]["median_error"] < 0.15
