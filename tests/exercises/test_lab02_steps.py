"""Helpers of lab 02: the forms that are timed compute the right values, and the engine runs the learner's functions and
compares the tokens.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit import measure, native, ops
from labkit.answers.lab02.online_softmax import online_softmax
from labkit.answers.lab02.products import int8_product
from labkit.answers.lab02.qkv_and_cache import fuse_qkv, write_then_read
from labkit.answers.lab02.sampling import sample_token
from labkit.exercises import lab02
from labkit.exercises.lab02 import climb, examples, measurements, step_launches, swaps
from labkit.exercises.lab02.reachable_code import reachable_code
from labkit.exercises.registry import exercise as find
from labkit.grading.call import run_cases
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import judge
from labkit.measure.torch_traffic import torch_traffic
from labkit.ops.decode_attention import decode_attention_reference
from labkit.ops.linear import linear_reference
from labkit.ops.residual_layer_norm import residual_layer_norm_reference
from tests.exercises.learners import solution_source, solved_cells

CPU = torch.device("cpu")
NAMES = ("residual_layer_norm", "rotary_cache_write", "decode_attention", "linear_gelu", "int8")


@pytest.fixture(scope="module")
def engine() -> swaps.EngineSwaps:
    return swaps.EngineSwaps()


def values_of(form: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """Call a form. Return its return values, and its arguments after the call."""
    own = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
    given = form(*own)
    given = [given] if isinstance(given, Tensor) else list(given)
    return [*given, *(arg for arg in own if isinstance(arg, Tensor) and arg.is_floating_point())]


@pytest.mark.parametrize("with_library", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_together_gives_what_apart_gives(name: str, with_library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_library and not native.available():
        pytest.skip(f"not measured here: {native.why_not()}")
    monkeypatch.setattr(native, "available", lambda: with_library)
    torch.manual_seed(3)
    made = examples.example(name, 9, CPU)
    tolerance = 1e-2 if name == "int8" else 1e-5  # the int8 weight is rounded, and its torch form computes in bf16
    for found, expected in zip(values_of(made.together, made.args), values_of(made.apart, made.args), strict=True):
        assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def test_torchs_attention_looks_at_ragged_lengths() -> None:
    args = torch.randn(3, 2, 6), torch.randn(40, 2, 6), torch.randn(40, 2, 6)
    table, lengths = torch.randperm(40)[:39].view(3, 13).int(), torch.tensor([5, 13, 1], dtype=torch.int32)
    table[0, 5:] = 10_000  # after a sequence's last slot, its row can hold any number
    torch.testing.assert_close(
        examples.attention_by_torch(*args, table, lengths), decode_attention_reference(*args, table, lengths)
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_fewer_bytes_than_the_least_are_moved_apart(name: str) -> None:
    made = examples.example(name, 8, CPU)
    assert torch_traffic(lambda: made.apart(*made.args)).total >= made.least_bytes


def test_three_products_are_one() -> None:
    x, stacked, square = torch.randn(4, 10), torch.randn(30, 10), torch.randn(10, 10)
    torch.testing.assert_close(swaps.three_products(x, stacked), linear_reference(x, stacked))
    torch.testing.assert_close(swaps.three_products(x, square, x[0]), linear_reference(x, square, x[0]))
    assert torch_traffic(lambda: swaps.three_products(x, stacked)).launches == 4


def test_every_function_runs_in_the_engine_with_the_same_tokens(
    engine: swaps.EngineSwaps, capsys: pytest.CaptureFixture[str]
) -> None:
    def attention(*args: Any, block: int = 64) -> Tensor:
        return decode_attention_reference(*args)

    for functions in (
        {"residual_layer_norm": residual_layer_norm_reference},
        {"decode_attention": swaps.through_cache(write_then_read)},
        {"decode_attention": swaps.through_softmax(online_softmax)},
        {"decode_attention": swaps.through_narrow_table(attention)},
    ):
        assert engine.same_tokens("function", functions)
    assert engine.same_tokens("function", {}, engine=engine.built_with(fuse_qkv), calls=8)
    assert engine.same_tokens("function", swaps.through_int8(int8_product), engine=engine.quantized(), prompts=1)
    assert engine.same_tokens("function", {"sample": swaps.through_rows(sample_token)}, params=swaps.DRAWN)
    said = capsys.readouterr().out
    assert said.count("tokens equal: True") == 7
    assert " ran 0 times" not in said


def test_a_run_in_the_engine_is_repeated_only_after_a_change(
    engine: swaps.EngineSwaps, capsys: pytest.CaptureFixture[str]
) -> None:
    scope: dict[str, Any] = {"own": residual_layer_norm_reference}

    def norm(source: str) -> Any:
        exec(source, scope)
        return {"residual_layer_norm": scope["norm"]}

    plain = "def norm(*args):\n    return own(*args)"
    for source in (plain, plain, "def norm(*args):\n    return (*own(*args),)"):
        assert engine.same_tokens("norm", norm(source))
    said = capsys.readouterr().out.splitlines()
    assert ["your code has not changed since" in line for line in said] == [False, True, False]
    calls = []
    scope["own"] = lambda *args: calls.append(1) or residual_layer_norm_reference(*args)
    assert engine.same_tokens("norm", norm(plain))  # a function that `norm` calls has changed
    assert calls


def test_a_changed_number_or_helper_is_a_change() -> None:
    def outer(step: int) -> Any:
        return lambda x: x + step

    assert reachable_code(outer(1)) == reachable_code(outer(1))
    assert reachable_code(outer(1)) != reachable_code(outer(2))
    scope: dict[str, Any] = {"SIZE": 3, "helper": outer(1)}
    exec("def f(x):\n    return [helper(y) * SIZE for y in x]", scope)
    before = reachable_code(scope["f"])
    for name, value in (("SIZE", 4), ("helper", outer(5))):
        kept, scope[name] = scope[name], value
        assert reachable_code(scope["f"]) != before
        scope[name] = kept
    assert reachable_code(scope["f"]) == before


def test_a_wrong_function_is_told_by_its_tokens(engine: swaps.EngineSwaps, capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = {exercise.function: answer_to(exercise).mistakes for exercise in lab02.EXERCISES}
    wrong = mistakes["fused_residual_layer_norm"][6].implementation  # this mistake leaves out the residual
    assert not engine.same_tokens("function", {"residual_layer_norm": wrong})
    unwritten = mistakes["write_then_read"][3].implementation  # this mistake writes into a copy
    assert not engine.same_tokens("function", {"decode_attention": swaps.through_cache(unwritten)})
    greedy = mistakes["sample_token"][6].implementation
    assert not engine.same_tokens("function", {"sample": swaps.through_rows(greedy)}, params=swaps.DRAWN)

    def stub(*args: Any) -> Any:
        raise NotImplementedError("stub")

    assert not engine.same_tokens("function", {"residual_layer_norm": stub})
    assert "not measured here: stub" in capsys.readouterr().out
    assert engine.same_tokens("function", {"residual_layer_norm": residual_layer_norm_reference})


def test_a_step_apart_is_hundreds_of_launches(engine: swaps.EngineSwaps) -> None:
    with ops.use(**climb.APART):
        step = step_launches.decode_step(engine.model)
        assert torch.equal(step(), step())  # every call runs the same step
        assert 250 < torch_traffic(step).launches < 500


def test_the_captured_step_computes_what_the_operations_do() -> None:
    timings = step_launches.captured_step(CPU, seconds=0.2)
    assert (timings is not None) == native.available()


def test_a_steps_launches_by_operation_add_up(engine: swaps.EngineSwaps) -> None:
    with ops.use(**climb.APART):
        whole = torch_traffic(step_launches.decode_step(engine.model)).launches
    parts = climb.launches_by_operation(step_launches.decode_step(engine.model))
    assert sum(parts.values()) == whole
    assert parts["rotary_cache_write"] == 8 * 20  # the lab says twenty launches


def test_apart_sum_and_norm_make_eight_passes() -> None:
    made = examples.example("residual_layer_norm", 64, CPU)
    assert round(torch_traffic(lambda: made.apart(*made.args)).total / made.args[0].nbytes) == 8


def test_a_wrong_kernel_is_not_drawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "interpreted", lambda: False)
    monkeypatch.setattr(measurements, "has_triton", lambda: True)
    points: dict[str, measurements.Measured] = {}

    def fused_residual_layer_norm(*args: Any) -> Any:
        hidden, normed = residual_layer_norm_reference(*args)
        normed[:, 1024:] = 0
        return hidden, normed

    measurements.show(points, fused_residual_layer_norm, 2.6, 4, "here")
    assert points == {}
    assert "Nothing is measured, because at this size (tensors of (4, 4096)" in capsys.readouterr().out
    with pytest.raises(measurements.WrongAnswer):
        measurements.fused("rotary_cache_write", lambda *args: args[0], 4, seconds=0.1)


def test_a_prediction_in_bytes_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    timing = measure.Timing((1.0, 1.0))
    one = measurements.Measured(examples.example("int8", 1, CPU), 2e6, 1, 1e6, 1e6, timing, timing)
    assert [text.get_text() for text in one.figure(1e6, "here").axes[0].get_xticklabels()] == [
        "fp32 weight (torch), launches: 1",
        "int8 weight (your kernel)",
    ]
    assert "did you enter bytes or kB" in capsys.readouterr().out
    one.figure(1.1, "here")
    assert "did you enter bytes or kB" not in capsys.readouterr().out


def test_what_cannot_be_counted_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "interpreted", lambda: False)
    one = measurements.fused("residual_layer_norm", residual_layer_norm_reference, 4, seconds=0.1)
    assert math.isnan(one.bytes_together)
    assert one.launches_apart == 3
    figure = one.figure(1.0, "here")
    assert "not measured here" in capsys.readouterr().out
    assert len(figure.axes) == 1
    quiet, disturbed = (replace(one, together=replace(one.together, disturbed=words)) for words in ("", "another program ran"))
    ((intensity, rate),) = measurements.roofline_points({"norm": quiet, "noisy": disturbed}).values()
    assert "Not drawn, because other programs disturbed the measurement: noisy." in capsys.readouterr().out
    assert 0.1 < intensity < 1
    assert rate > 0


@pytest.mark.parametrize(
    ("name", "sentence", "tensor"),
    [
        ("write_then_read", "You read before you write", "answer[0]"),
        ("write_then_read", "Your result is right, but you did not change `cache`", "cache"),
        ("fused_residual_layer_norm", "The residual is missing", "hidden"),
        ("fused_residual_layer_norm", "You divide the mean by BLOCK", "normed"),
        ("fused_rotary_cache_write", "You also rotate the value", "values"),
        ("split_decode_attention", "The scores are not multiplied", "your answer"),
    ],
)
def test_a_picture_of_wrong_elements_names_its_tensor(name: str, sentence: str, tensor: str) -> None:
    exercise = find(name)
    (mistake,) = (one for one in answer_to(exercise).mistakes if one.message.startswith(sentence))
    verdict = judge(answer_to(exercise), {11: run_cases(mistake.implementation, exercise, 11)})
    assert verdict.message == mistake.message
    assert f"\n{tensor}: tensor of shape (" in verdict.details


@pytest.mark.parametrize(
    ("first", "changed", "said"),
    [
        ("largest - new", "new - largest", "The sign in your factor is wrong"),
        ("math.exp(largest - new)", "math.exp(new - largest) if total else 0.0", "yours makes them grow"),
        ("scores - new", "new - scores", "The sign in your weights is wrong"),
    ],
)
def test_a_wrong_sign_in_one_pass_is_named(first: str, changed: str, said: str) -> None:
    source = next(cell for cell in solved_cells("02") if "def online_softmax(" in cell)
    scope: dict[str, Any] = {"math": math, "torch": torch}
    exec(source.replace(first, changed), scope)
    exercise = find("online_softmax")
    verdict = judge(answer_to(exercise), {11: run_cases(scope["online_softmax"], exercise, 11)})
    assert said in verdict.message


@pytest.mark.parametrize("exercise", [*lab02.EXERCISES, find("stream_text")], ids=lambda exercise: exercise.number)
def test_hints_hold_one_line_of_the_solution_at_most(exercise: Any) -> None:
    cell = next(cell for cell in solution_source(exercise.lab).split("# %%") if f"\ndef {exercise.function}(" in cell)
    solved = re.findall(r"# BEGIN SOLUTION.*?\n(.*?)# END SOLUTION", cell, flags=re.DOTALL)
    lines = [line.strip().removeprefix("return ") for block in solved for line in block.splitlines()]
    hints = " ".join(exercise.hints)
    assert lines
    assert sum(len(line) > 12 and line in hints for line in lines) <= 1
    for hint in exercise.hints:
        assert len(re.findall(r"\w+ \+?= ", hint)) <= 1, "a hint holds one assignment at most"
