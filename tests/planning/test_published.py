"""Predictions agree with published tables within the limits that docs/planning.md promises. Tables that a user provides are
tested too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labkit.errors import InvalidRequest
from labkit.planning.published import FOLDER, default_fit, fastertransformer, read_rows, tensorrt_llm
from labkit.planning.this_machine import bench_rows, cpu_fit, verify
from labkit.planning.validation import Report, validate
from tests.benchmarks.planning import RESULTS, shipped_fits

GOAL_MEDIAN, GOAL_WORST = 0.15, 0.40


@pytest.fixture(scope="module")
def report() -> Report:
    return validate()


def test_the_tables_are_complete() -> None:
    rows = fastertransformer()
    assert len(rows) == 329
    assert {row.plan.shape.name for row in rows} >= {"gpt-350m", "gpt-1.3b", "gpt-6.7b", "gpt-20b", "gpt-175b", "gpt-530b"}
    known = {(row.plan.shape.name, row.plan.batch, row.plan.input_tokens): row.seconds for row in rows}
    assert known["gpt-6.7b", 64, 512] == pytest.approx(3.30641)
    assert known["gpt-175b", 16, 512] == pytest.approx(3.70623)
    assert len(tensorrt_llm()) > 20


def test_every_table_is_predicted_within_the_goal(report: Report) -> None:
    for part in report.parts:
        wrong = np.abs(part.errors())
        assert len(wrong) >= 18
        assert np.median(wrong) <= GOAL_MEDIAN, part.summary()
        assert wrong.max() <= GOAL_WORST, part.summary()
        for one in part.checked:
            assert one.median <= GOAL_MEDIAN, one
    lecture = np.abs(report.lecture_errors())
    assert np.median(lecture) <= GOAL_MEDIAN
    assert lecture.max() <= GOAL_WORST


def test_the_fit_used_the_rows_of_one_size_only(report: Report) -> None:
    first = report.parts[0]
    assert {row.plan.shape.name for row in first.rows if first.fitted(row)} == {"gpt-20b"}
    assert first.found.rows == 174
    assert {one.fitted for one in first.checked} == {True, False}


def test_the_memory_says_which_rows_ran_out_of_it(report: Report) -> None:
    assert report.memory_right == report.memory_rows == 329
    assert sum(row.seconds is None for row in fastertransformer()) >= 9
    assert np.median(np.abs(report.memory_errors)) < GOAL_MEDIAN


def test_another_size_predicts_the_tables_too() -> None:
    """That the fit meets the goal is not an accident of the 20B rows: a fit to the rows of the 6.7B model on one GPU meets it
    as well.
    """
    part = validate("gpt-6.7b").parts[0]
    assert np.median(np.abs(part.errors())) <= GOAL_MEDIAN, part.summary()
    assert np.max(np.abs(part.errors())) <= GOAL_WORST, part.summary()


def test_the_report_is_plain(report: Report) -> None:
    values = report.to_dict()
    assert [table["predicted_rows"] for table in values["tables"]] == [146, 18]
    assert values["lecture"]["rows"][0]["model"] == "gpt-1.3b"


@pytest.mark.long
def test_the_shipped_fits_are_those_of_the_tables_and_records() -> None:
    """If a formula or a table changes, `python -m tests.benchmarks.planning` writes the fits again."""
    for name, again in shipped_fits().items():
        shipped = {"fastertransformer_fit.json": default_fit, "cpu_fit.json": cpu_fit}[name]()
        assert shipped.found.to_dict() == pytest.approx(again.found.to_dict(), rel=0.01), name
        assert shipped.spread == pytest.approx(again.spread, rel=0.01)
        assert (FOLDER / name).exists()


def test_labkit_bench_is_predicted_from_a_few_of_its_rows() -> None:
    found = verify(bench_rows(RESULTS))
    wrong = np.abs(found.predicted_errors())
    assert len(wrong) > 25
    assert np.median(wrong) <= GOAL_MEDIAN, found.summary()
    models = {row.model for row in found.rows if not row.fitted}
    assert models == {"gpt-j-405m-synthetic", "gpt-j-6b-synthetic", "gptj-tiny"}
    assert {row.precision for row in found.rows} == {"fp32", "bf16", "int8", "int4"}
    assert {row.dominated_by for row in found.rows} >= {"bytes", "FLOPs"}


def test_records_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="holds no record of `labkit bench` on a CPU"):
        bench_rows(tmp_path)


HEADER = "model,gpu,tensor_parallel,pipeline_parallel,input_tokens,output_tokens,batch,latency_ms\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,gpu\n", "lacks the columns tensor_parallel"),
        (HEADER + "gpt-20b,a100-80gb,1,1,20,8,1,fast\n", "line 2: .*fast"),
        (HEADER + "gpt-20b,a100-80gb,1,1,20,8,1,-5\n", "line 2: latency_ms is -5"),
        (HEADER + "gpt-20b,a100-80gb,1,1,20,8,1,225\ngpt-20b,a100-80gb,7,1,20,8,1,225\n", "line 3: tensor_parallel 7"),
        (HEADER + "gpt-21b,a100-80gb,1,1,20,8,1,225\n", "line 2: there is no shape named 'gpt-21b'"),
        (HEADER + "gpt-20b,a100-80gb,1\n", "line 2"),
    ],
)
def test_a_table_with_a_fault_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=message):
        read_rows(path)
