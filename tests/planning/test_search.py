"""The search: every plan fits and meets the bound, and the best is first. If no plan does both, the nearest plan is named."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from labkit.errors import InvalidRequest
from labkit.planning.catalogue import GPUS, named_gpu
from labkit.planning.memory import usable_bytes
from labkit.planning.named_shapes import named_shape
from labkit.planning.nemo_csv import COLUMNS, write_csv
from labkit.planning.published import default_fit
from labkit.planning.search import Answer, Question, pareto, search

QUESTION = Question(
    named_shape("gpt-530b"), named_gpu("a100-80gb"), gpus=32, latency_seconds=2.0, input_tokens=60, output_tokens=20
)


@pytest.fixture(scope="module")
def answer() -> Answer:
    return search(QUESTION, default_fit())


def test_every_plan_fits_and_meets_the_bound(answer: Answer) -> None:
    assert len(answer.plans) > 5
    for one in answer.plans:
        assert one.predicted.seconds <= 2.0
        assert one.memory.total <= usable_bytes(one.plan)
        assert one.plan.ranks <= 32
        assert one.instances == 32 // one.plan.ranks
    assert answer.tried == len(answer.plans) + answer.too_large + answer.too_slow


def test_the_published_division_of_530b_is_found(answer: Answer) -> None:
    """FasterTransformer's tables have TP 16, TP 32 and TP 8 x PP 3; one node of eight GPUs is too small for 16-bit weights."""
    layouts = {(one.plan.tensor_parallel, one.plan.pipeline_parallel) for one in answer.all_plans}
    assert {(16, 1), (32, 1), (8, 3)} <= layouts
    assert (8, 1) not in layouts
    assert all(tensor <= 8 or tensor % 8 == 0 for tensor, _ in layouts)


@pytest.mark.parametrize("ranking", ["throughput", "latency", "gpus"])
def test_the_best_is_first(ranking: str) -> None:
    plans = search(QUESTION, default_fit(), ranking).plans
    value = {
        "throughput": lambda one: -one.tokens_per_second_per_gpu,
        "latency": lambda one: one.predicted.seconds,
        "gpus": lambda one: one.plan.ranks,
    }[ranking]
    values = [value(one) for one in plans]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_giving_up_early_loses_no_plan(answer: Answer) -> None:
    """If each batch size is searched separately, so that none can be skipped, the same plans are found."""
    alone = [
        (one.plan.tensor_parallel, one.plan.pipeline_parallel, one.plan.batch)
        for batch in QUESTION.batches
        for one in search(replace(QUESTION, batches=(batch,)), default_fit()).plans
    ]
    assert set(alone) == {(one.plan.tensor_parallel, one.plan.pipeline_parallel, one.plan.batch) for one in answer.plans}


def test_careful_keeps_the_upper_end_within_the_bound(answer: Answer) -> None:
    careful = search(replace(QUESTION, careful=True), default_fit()).plans
    assert 0 < len(careful) < len(answer.plans)
    assert all(one.predicted.high <= 2.0 for one in careful)


def test_an_impossible_bound_names_the_nearest_plan_and_what_binds_it() -> None:
    answer = search(replace(QUESTION, latency_seconds=0.1), default_fit())
    assert answer.plans == []
    assert answer.nearest is not None
    assert answer.nearest.predicted.seconds == min(one.predicted.seconds for one in answer.all_plans)
    assert answer.nearest.predicted.dominated_by in answer.why_none
    assert "within 100 ms" in answer.why_none


def test_too_little_memory_says_how_much_is_lacking() -> None:
    answer = search(replace(QUESTION, gpus=8), default_fit())
    assert answer.plans == []
    assert "no plan fits the memory. The nearest lacks" in answer.why_none


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="the ranking is 'price'"):
        search(QUESTION, default_fit(), "price")
    with pytest.raises(InvalidRequest, match="pipeline_parallel 2 does not divide the 105 layers"):
        search(replace(QUESTION, pipeline_parallel=(2,)), default_fit())
    with pytest.raises(InvalidRequest, match="no division of gpt-530b uses at most 4 GPUs"):
        search(replace(QUESTION, tensor_parallel=(8,), gpus=4), default_fit())
    with pytest.raises(InvalidRequest, match="the latency bound is -1 ms"):
        replace(QUESTION, latency_seconds=-0.001)


def test_the_front_has_no_plan_that_another_beats(answer: Answer) -> None:
    front = pareto(answer.all_plans)
    assert 1 < len(front) < len(answer.all_plans)
    for before, after in pairwise(front):
        assert after.predicted.seconds > before.predicted.seconds
        assert after.tokens_per_second_per_gpu > before.tokens_per_second_per_gpu


def test_price_and_energy_follow_from_the_throughput(answer: Answer) -> None:
    best = answer.plans[0]
    assert best.price_per_million_tokens(2.0) == pytest.approx(2.0 / 3600 / best.tokens_per_second_per_gpu * 1e6)
    assert best.joules_per_token == pytest.approx(400 / best.tokens_per_second_per_gpu)


def test_the_csv_file_begins_with_nemos_columns(answer: Answer, tmp_path: Path) -> None:
    with write_csv(tmp_path / "plans.csv", answer.plans).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[:5] == COLUMNS == ("TP", "PP", "BS", "Latency [ms]", "Throughput per GPU [samples/sec/gpu]")
    assert len(rows) == len(answer.plans)
    first = {name: float(rows[0][name]) for name in COLUMNS}
    by_hand = first["BS"] * 1000 / first["Latency [ms]"] / first["TP"] / first["PP"]
    assert first["Throughput per GPU [samples/sec/gpu]"] == pytest.approx(by_hand, rel=0.01)


def test_a_plan_for_a_gpu_loads_no_torch() -> None:
    code = (
        "import sys; from labkit.planning.search import Question, search; from labkit.planning.published import default_fit;"
        "from labkit.planning.catalogue import named_gpu; from labkit.planning.named_shapes import named_shape;"
        "answer = search(Question(named_shape('gpt-20b'), named_gpu('a100-80gb')), default_fit());"
        "print(len(answer.plans), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, has_torch = done.stdout.split()
    assert int(count) > 10
    assert has_torch == "False"


@pytest.mark.parametrize("name", GPUS)
def test_every_rate_has_a_source_and_says_what_was_not_checked(name: str) -> None:
    gpu = GPUS[name]
    assert gpu.link is not None
    assert gpu.far_link is not None
    for source in (gpu.source, gpu.link.source, gpu.far_link.source):
        assert "." in source
        assert "/" in source or "not checked" in source
    assert "assumed" in gpu.link.source
