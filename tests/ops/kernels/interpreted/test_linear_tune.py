"""Tuning the linear layers of a whole model: each shape is measured once, and the fastest kernel then runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from labkit import ops
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.ops.kernels import linear, linear_tune
from labkit.ops.kernels.autotune import Tuner
from labkit.ops.kernels.linear_tune import linear_shapes, tune, tune_model

CONFIG = GPTJConfig(
    vocab_size=50, hidden_size=32, num_layers=2, num_heads=2, rotary_dim=4, context_length=16, intermediate_size=64
)
CPU = torch.device("cpu")


class Backwards:
    """Replaces the clock so that each candidate seems faster than the one before. With `idle`, no candidate really runs."""

    def __init__(self) -> None:
        self.calls = 0
        self.idle = False

    def __call__(self, call: Callable[[], object]) -> float:
        if not self.idle:
            call()
        self.calls += 1
        return 1000.0 - self.calls


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backwards:
    clock = Backwards()
    monkeypatch.setattr(linear, "tuner", Tuner(path=tmp_path / "autotune.json", do_bench=clock, versions=dict))
    return clock


def test_shapes() -> None:
    expected = {"qkv": (32, 96), "out_proj": (32, 32), "fc_in": (32, 64), "fc_out": (64, 32), "lm_head": (32, 50)}
    assert linear_shapes(CONFIG) == expected
    assert linear_shapes(CONFIG, 2) == {
        "qkv": (32, 48), "out_proj": (16, 32), "fc_in": (32, 32), "fc_out": (32, 32), "lm_head": (32, 25)
    }  # fmt: skip


def test_every_shape_and_bucket_is_tuned_once_and_the_choice_runs(
    clock: Backwards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    tune(CONFIG, (1, 3, 4, 1000), kind="int8", device=CPU, report=lines.append)
    assert len(lines) == 5 * 2
    assert lines[0].startswith("linear int8 1x32x96 float16: cublas, ")
    entries = json.loads((tmp_path / "autotune.json").read_text())["devices"]["cpu"]
    assert set(entries) == {f"linear int8 {rows}x{a}x{b} float16" for rows in (1, 4) for a, b in linear_shapes(CONFIG).values()}
    measured = clock.calls
    clock.idle = True
    tune(CONFIG, (1, 2, 3), kind="int8", device=CPU)
    assert clock.calls > measured, "two rows are a bucket of their own"
    measured = clock.calls
    tune(CONFIG, (1, 2, 3), kind="int8", device=CPU)
    assert clock.calls == measured
    ran = []
    monkeypatch.setattr(linear, "run_plan", lambda plan, x, *rest, **named: ran.append(plan.label) or x)
    for rows in (3, 8):
        linear.linear_triton(torch.zeros(rows, 32).half(), ops.Int8Weight.quantize(torch.ones(96, 32)))
    assert ran[0] == "cublas", "the choice that was found did not run"
    assert ran[1].startswith("few_rows "), "a shape that was not tuned takes the first candidate"


@pytest.mark.long
def test_a_model_in_int4_has_a_head_in_int8(clock: Backwards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_tune, "compute_dtype", lambda precision, device: torch.float16)
    clock.idle = True
    for precision, kinds in {"int4": ("int4 group 32", "int8"), "fp16": ("dense", "dense")}.items():
        lines: list[str] = []
        tune_model(CONFIG, precision, (1,), CPU, lines.append)
        assert [line.split(" 1x")[0] for line in lines] == [f"linear {kind}" for kind in (*[kinds[0]] * 4, kinds[1])]
    again: list[str] = []
    tune_model(CONFIG, "int4", (1,), CPU, again.append)
    assert again == []


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(InvalidRequest, match="kind of weight is 'int3'; dense, int8, int4"):
        tune(CONFIG, kind="int3", device=CPU)
