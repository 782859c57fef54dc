"""Lab 08: its tables of plans agree with the planner and the published rows, and the planner page has a plan or a reason for
every choice.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

import labkit
from labkit.answers.lab08.choice import choose_plan, defend
from labkit.answers.lab08.latency import request_ms
from labkit.answers.lab08.memory import largest_batch, stored_gib
from labkit.answers.lab08.turning import turning_batch
from labkit.errors import InvalidRequest
from labkit.exercises.lab08 import figures, own_machine, planner_page, plans
from labkit.measure import Timing
from labkit.planning.catalogue import named_gpu
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import CPU
from labkit.planning.latency import request_parts
from labkit.planning.memory import weight_bytes
from labkit.planning.named_shapes import SHAPES, named_shape
from labkit.planning.published import default_fit, fastertransformer
from labkit.planning.search import Question, search

LIMITS = {
    "device": "cpu",
    "threads": 2,
    "read_bytes_per_second": 2e10,
    "flops_per_second": {"fp32": 1e11, "bf16": 3e11},
    "disturbed": "",
}


def test_the_executive_math() -> None:
    assert stored_gib(175_000_000_000, 16, False, 0) == pytest.approx(325.96, abs=0.005)
    assert stored_gib(175_000_000_000, 16, True, 0) == pytest.approx(325.96 * 9 / 16, abs=0.01)


@pytest.mark.parametrize(("precision", "bits", "group"), [("fp16", 16, 0), ("int8", 8, 0), ("int4", 4, 32)])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_formula_of_the_lab_is_that_of_the_planner(precision: str, bits: int, group: int, sparse: bool) -> None:
    plan = Deployment(named_shape("gpt-20b"), named_gpu("a100-80gb"), precision=precision, sparse=sparse)
    assert stored_gib(10**9, bits, sparse, group) * 2**30 == pytest.approx(10**9 * plan.matrix_bytes)
    if precision == "fp16" and not sparse:
        assert plans.model_of("gpt-20b")["weight_bytes"] == pytest.approx(weight_bytes(plan), rel=1e-3)


def test_the_batch_at_the_turn_takes_as_long_to_compute_as_to_read() -> None:
    batch = turning_batch(10**9, 2 * 10**9, 10**6, 3e14, 1e12)
    assert batch is not None
    assert 2 * 1e9 * batch / 3e14 == pytest.approx((2e9 + 1e6 * batch) / 1e12)
    assert turning_batch(10**9, 2 * 10**9, 10**8, 3e14, 1e12) is None


def test_rows_are_those_of_the_search() -> None:
    question = Question(named_shape("gpt-20b"), named_gpu("a100-80gb"), input_tokens=60, output_tokens=20)
    found = {
        (one.plan.tensor_parallel, one.plan.pipeline_parallel, one.plan.batch): one
        for one in search(question, default_fit()).plans
    }
    rows = plans.rows_of("gpt-20b", plans.layouts("gpt-20b", 8), (1, 16, 256))
    assert len(rows) == 3 * 9
    for row in rows:
        one = found[row["tensor_parallel"], row["pipeline_parallel"], row["batch"]]
        assert row["ms"] == pytest.approx(1e3 * one.predicted.seconds)
        assert row["low_ms"] < row["ms"] < row["high_ms"]
        assert plans.per_gpu(row) == pytest.approx(one.tokens_per_second_per_gpu)
        assert sum(row["memory"].values()) == pytest.approx(row["gib"]) == pytest.approx(one.memory.total / 2**30)


def test_the_rows_of_the_lab_are_predicted_from_other_lengths() -> None:
    found, truth = plans.fit_to_other_lengths(), plans.published("gpt-20b")
    timed = [row.plan for row in fastertransformer() if row.seconds is not None]
    assert found.rows == sum((plan.input_tokens, plan.output_tokens) != (60, 20) for plan in timed) < len(timed)
    assert found.found != default_fit().found
    rows = plans.rows_of("gpt-20b", {plan[:2] for plan in truth}, {plan[2] for plan in truth}, found=found)
    off = [row["ms"] / truth[row["tensor_parallel"], row["pipeline_parallel"], row["batch"]] - 1 for row in rows]
    assert 0 < float(np.median(np.abs(off))) < 0.15
    best = choose_plan(rows, 300, 80)
    assert best is not None
    took = truth[best["tensor_parallel"], best["pipeline_parallel"], best["batch"]]
    assert took <= 300
    assert best["low_ms"] <= took <= best["high_ms"]


def test_a_learners_model_comes_nearer_with_the_rates_that_are_reached() -> None:
    model, link, truth = plans.model_of("gpt-20b"), plans.link_of(), plans.published("gpt-20b")

    def median(gpu: dict[str, float]) -> float:
        return float(
            np.median([abs(request_ms(model, gpu, link, tp, batch, 60, 20) / ms - 1) for (tp, _, batch), ms in truth.items()])
        )

    assert median(plans.reached_by()) < 0.35 < median({"read": 2039e9, "flops": 312e12, "gap": 0.0})


def test_every_plan_for_530b_has_a_reason() -> None:
    rows = plans.rows_of("gpt-530b", plans.layouts("gpt-530b", 32, (4, 8, 16, 32), (1, 3, 5, 7)), (1, 16, 256))
    reasons = defend(rows, 2000, 80)
    assert set(reasons) == {row["name"] for row in rows}
    assert list(reasons.values()).count("chosen") == 1
    assert {"too large", "too slow"} <= set(reasons.values())


def test_the_figures_show_the_plans() -> None:
    rows = plans.rows_of("gpt-20b", [(4, 1), (8, 1)], (1, 16))
    front = figures.front(rows, 300, rows[-1], title="Plans")
    labels = [line.get_label() for line in front.axes[0].lines]
    assert {"TP 4 x PP 1", "TP 8 x PP 1", "Pareto front", "latency bound", f"your choice: {rows[-1]['name']}"} == set(labels)
    stacked = figures.memory(rows, 80, title="Memory")
    reached = [0.0] * len(rows)
    for bars in stacked.axes[0].containers:
        reached = [old + bar.get_width() for old, bar in zip(reached, bars, strict=True)]
    assert reached == pytest.approx([row["gib"] for row in rows])


@pytest.mark.parametrize(
    "choice", [{}, {"link": "pcie4"}, {"model": "gpt-530b"}, {"model": "gpt-530b", "gpus": 32, "bound_ms": 100}]
)
def test_the_page_answers(choice: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    figure = planner_page.best_plan(**choice)
    said = capsys.readouterr().out
    assert said.startswith(("Best of ", "No plan: no plan "))
    assert (figure is None) == ("fits the memory" in said)
    if said.startswith("Best"):
        ms, low, high = (
            float(number.replace(",", "")) for number in re.findall(r"([\d,]+) ms \(([\d,]+) to ([\d,]+)\)", said)[0]
        )
        assert low < ms <= 300
        assert ms < high


def test_what_a_gpu_cannot_compute_is_said() -> None:
    with pytest.raises(InvalidRequest, match="does not compute in fp8"):
        planner_page.best_plan(precision="fp8")


def test_the_menus_hold_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipywidgets

    menus: dict[str, Any] = {}
    monkeypatch.setattr(ipywidgets, "interact", lambda page, **given: menus.update(given, page=page))
    planner_page.show()
    assert set(menus["model"]) == set(SHAPES)
    assert menus["model"][0] == "gpt-20b"
    assert math.prod(len(menus[name]) for name in ("gpu", "link", "precision", "bound_ms")) > 100


def test_the_first_and_the_last_batch_predict_those_between(capsys: pytest.CaptureFixture[str]) -> None:
    slower = replace(CPU, read=0.8 * CPU.read, compute=0.8 * CPU.compute)
    with labkit.load("gptj-tiny", device="cpu") as engine:
        made = {b: float(request_parts(own_machine.plan_of(engine, LIMITS, b), slower).total) for b in (1, 4, 16, 64)}
        timings = {str(batch): Timing((seconds,) * 3) for batch, seconds in made.items()}
        found = own_machine.predictions(engine, LIMITS, timings)
        alone = own_machine.predictions(engine, LIMITS, {"1": timings["1"]})
        taken = own_machine.seconds_of(engine, (1, 3), seconds=0.2)
    assert list(alone) == ["1"]
    assert list(taken) == ["1", "3"]
    for batch, seconds in made.items():
        one = found[str(batch)]
        assert one.seconds == pytest.approx(seconds, rel=0.1)
        assert not one.beyond
        assert 0.6 * seconds < one.low < seconds < one.high < 1.6 * seconds
    own_machine.tell(timings, found)
    said = capsys.readouterr().out.splitlines()[-4:]
    assert ["fitted" in line for line in said] == [True, False, False, True]
    assert f"batch 16: measured {1e3 * made[16]:.0f} ms, predicted" in said[2]
    axes = own_machine.figure(timings, found, {"16": 3.0}, "").axes[0]
    heights = [bar.get_height() for bars in axes.containers if isinstance(bars, BarContainer) for bar in bars]
    planner, measured = (
        [value / made[1] for value in values] for values in ([f.seconds for f in found.values()], made.values())
    )
    assert heights == pytest.approx([3.0, *planner, *measured])
    assert "(fitted)" in axes.get_xticklabels()[0].get_text()
    whiskers = next(bars for bars in axes.containers if isinstance(bars, ErrorbarContainer)).lines[2][0].get_segments()
    assert whiskers[1][:, 1] == pytest.approx([found["4"].low / made[1], found["4"].high / made[1]])
    assert own_machine.tokens_per_second(timings)[16] == pytest.approx(16 * 16 / made[16])


def test_each_call_has_new_prompts() -> None:
    """The engine keeps the KV cache of prompts that it has seen, so a prefill of the same prompts would take no time."""
    seen: list[tuple[int, ...]] = []
    engine = SimpleNamespace(
        config=SimpleNamespace(vocab_size=8192), generate=lambda prompts, params: seen.extend(map(tuple, prompts))
    )
    own_machine.seconds_of(engine, (1, 2), seconds=0.01)  # type: ignore[arg-type]
    assert len(seen) == len(set(seen)) >= 3 * (2 + 5)
    assert {len(prompt) for prompt in seen} == {own_machine.PROMPT_TOKENS}


def test_links_and_the_best_published_row_in_words() -> None:
    found = plans.fit_to_other_lengths()
    (row,) = plans.rows_of("gpt-20b", [(8, 1)], (16,), found=found)
    assert 0 < row["link_ms"] < row["ms"]
    assert plans.links_told(row, 33.0, found).startswith(f"links: {row['link_ms']:.0f} ms of these; your all_reduce_ms")
    truth = plans.published("gpt-20b")
    inside = {plan: plan[2] * 20e3 / ms / plan[0] / plan[1] for plan, ms in truth.items() if ms <= 300}
    tensor, stages, batch = max(inside, key=inside.__getitem__)
    told = plans.best_published(truth, 300)
    assert f"TP {tensor} x PP {stages}, batch {batch}: {truth[tensor, stages, batch]:.0f} ms" in told
    assert f"{max(inside.values()):.1f} tokens per second per GPU" in told
    assert plans.best_published(truth, 1) == "no published row is within 1 ms"


def test_what_the_text_of_the_lab_says_about_its_plans() -> None:
    found, powers = plans.fit_to_other_lengths(), [2**power for power in range(9)]
    small = plans.rows_of("gpt-20b", plans.layouts("gpt-20b", gpus=8), powers, found=found)
    assert "chosen" not in defend(small, 300, 80).values()
    pairs = plans.layouts("gpt-530b", 32, (4, 8, 16, 32), (1, 3, 5, 7))
    assert pairs == [(4, 1), (4, 3), (4, 5), (4, 7), (8, 1), (8, 3), (16, 1), (32, 1)]
    rows = {row["name"]: row for row in plans.rows_of("gpt-530b", pairs, powers, found=found)}
    why = defend(list(rows.values()), 2000, 80)
    chosen = next(name for name, reason in why.items() if reason == "chosen")
    best = choose_plan(list(rows.values()), 2000, 80)
    assert chosen.startswith("TP 32 x PP 1")
    assert best is not None
    assert best["name"] != chosen
    assert best["high_ms"] > 2000
    for batch in powers:
        assert rows[f"TP 32 x PP 1, batch {batch}"]["ms"] < rows[f"TP 8 x PP 3, batch {batch}"]["ms"]
        assert rows[f"TP 32 x PP 1, batch {batch}"]["link_ms"] > rows[f"TP 8 x PP 3, batch {batch}"]["link_ms"]
    (full,) = plans.rows_of("gpt-20b", [(1, 1)], (16,), input_tokens=1920, output_tokens=128)
    assert full["memory"]["weights"] + full["memory"]["cache"] < 72 < 80 < full["gib"]


def test_guesses_stand_beside_their_bars() -> None:
    figure = figures.guessed({"a": 2.0, "b": 4.0}, {"b": 5.0}, ylabel="things")
    assert [bar.get_height() for bars in figure.axes[0].containers for bar in bars] == [5.0, 2.0, 4.0]
    with pytest.raises(InvalidRequest, match="guesses for c, but the bars are a, b"):
        figures.guessed({"a": 2.0, "b": 4.0}, {"c": 5.0}, ylabel="things")


def test_the_example_of_the_largest_batch() -> None:
    model = {"layers": 2, "hidden": 8, "weight_bytes": 12_000}
    assert largest_batch(model, 10_000, 0.1, 2, 10, 2) == 9
