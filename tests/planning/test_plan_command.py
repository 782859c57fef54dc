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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("--tensor-parallel 0", "tensor_parallel is 0; whole numbers of at least 1"),
        ("--pipeline-parallel 1,0", "pipeline_parallel is 1, 0; whole numbers of at least 1"),
        ("--batch 0", "batches is 0"),
        ("--precision ,", "no precision was given; one or more of fp32"),
        ("--budget nan --price 1", "--budget is nan; a number above 0"),
        ("--budget inf --price 1", "--budget is inf"),
        ("--price nan", "--price is nan; a number of at least 0"),
        ("--price -2", "--price is -2"),
        ("--top 0", "--top is 0"),
        ("--input-tokens 2000 --output-tokens 49", "2000 input and 49 output tokens exceed the context of gpt-j-6b"),
        ("--model gptj-tiny --input-tokens 600", "exceed the context of gptj-tiny, which holds 512 tokens"),
        ("--model gpt-20b --input-tokens 3000", "exceed the context of gpt-20b, which holds 2048 tokens"),
        ("--save plans.json", "--save is an option of --verify"),
        ("--model gpt-175b --params 20b", "--model and --params were given"),
        ("--model gpt-175b --config config.json", "--model and --config were given"),
        ("--params 20b --config config.json", "--params and --config were given"),
        ("--link nvlink --gpu this", "--link is not used with --gpu this"),
        ("--verify --gpus 4", "--gpus is not an option of --verify, which runs plans of a local model on this machine"),
        ("--verify --latency-ms 5 --csv a.csv", "--latency-ms is not an option of --verify"),
        ("--verify --precision ,", "in 0 precisions"),
        ("--validate --model gpt-20b", "--model is not an option of --validate"),
        ("--records . --plot a.png", "--plot is not an option of --records"),
        ("--validate --verify", "--verify is not an option of --validate"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(call: str, words: str) -> None:
    _register()
    found = CliRunner().invoke(app, ["plan", *call.split()])
    assert found.exit_code == 2, found.output
    assert words in found.output
    assert words in found.output
    assert found.output.count("\n") == 1, "one sentence"


def test_any_number_of_gpus_is_planned_and_a_shape_without_a_known_context_takes_any_length() -> None:
    _register()
    call = ["plan", "--params", "20b", "--gpus", "100000000", "--input-tokens", "5000", "--top", "1", "--json"]
    found = CliRunner().invoke(app, call)
    assert found.exit_code == 0, found.output
    (plan,) = json.loads(found.stdout.splitlines()[-1])["plans"]
    assert plan["instances"] > 10**6
