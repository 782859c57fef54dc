"""Values that are passed between processes: they are unchanged when they are written and read back, and no output of a hostile
process stops the grader.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from labkit.errors import NotAvailable
from labkit.frames import pack_frame, unpack_frame
from labkit.grading.call import Outcome, run_seeds
from labkit.grading.judge import SEEDS
from labkit.grading.notebook_check import judge_frame
from labkit.grading.verdict import FAILED, PASSED, Verdict
from labkit.grading.worker import row_of
from labkit.plain_values import Foreign, decode, encode
from tests.grading.forms import an_answer, row_sums


def round_trip(value: Any, folder: Path) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(encode(value, tensors), allow_nan=False)
    save_file(tensors, folder / "tensors.safetensors")
    return decode(json.loads(text), load_file(folder / "tensors.safetensors"))


@pytest.mark.parametrize(
    "value",
    [0, -7, 2**64, 10**1000, 0.1, -0.0, 1e-320, 1.7e308, math.inf, -math.inf, True, None, "", "é\n\ud800\x00", [], {}, [[[]]]],
    ids=repr,
)
def test_plain_values_come_back(value: Any, tmp_path: Path) -> None:
    again = round_trip(value, tmp_path)
    assert again == value
    assert type(again) is type(value)
    assert math.copysign(1, again) == math.copysign(1, value) if isinstance(value, float) else True


def test_nested_values_come_back_with_their_kinds(tmp_path: Path) -> None:
    value = {"a": (1, [2.5, {"b": None}]), 3: math.nan, 2.5: True}
    again = round_trip(value, tmp_path)
    assert again["a"] == [1, [2.5, {"b": None}]]
    assert math.isnan(again[3])
    assert again[2.5] is True


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool],
    ids=str,
)
def test_tensors_come_back_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    base = (3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(2))).to(dtype)
    shared = [base.T, base[1:3], base[0, 0], base[:0], base]
    if dtype.is_floating_point:
        shared.append(torch.tensor([math.nan, math.inf, -math.inf, 0.0], dtype=dtype))
    again = round_trip({"tensors": shared}, tmp_path)["tensors"]
    for found, expected in zip(again, shared, strict=True):
        assert found.dtype == dtype
        assert found.shape == expected.shape
        assert torch.equal(found.nan_to_num(5.5), expected.nan_to_num(5.5))
    trained = torch.ones(2, requires_grad=True) * 3
    assert round_trip(trained, tmp_path).tolist() == [3.0, 3.0]


def test_numpys_scalars_become_numbers_and_foreign_things_a_note(tmp_path: Path) -> None:
    assert round_trip(np.float64(0.25), tmp_path) == 0.25
    assert round_trip(np.int32(-3), tmp_path) == -3
    assert round_trip(np.bool_(True), tmp_path) is True
    for thing, name in [(np.ones(3), "ndarray"), ({1}, "set"), (1j, "complex"), (object(), "object"), (b"x", "bytes")]:
        again = round_trip([thing], tmp_path)[0]
        assert isinstance(again, Foreign)
        assert repr(again) == f"<a {name}>"
        assert again is not thing
    assert isinstance(round_trip(10**10_000, tmp_path), Foreign)


def test_a_value_that_cannot_be_passed_on_is_an_error_in_words() -> None:
    endless: list[Any] = []
    endless.append(endless)

    class Evil:
        @property
        def item(self) -> Any:
            raise RuntimeError

    for value in (endless, Evil(), torch.ones(2, device="meta"), {"x": [Evil()]}):
        row = row_of(Outcome(value), {})
        assert row["error"].startswith("its answer cannot be read: ")
        assert row["value"] == {"plain": None}


# What a hostile process writes ------------------------------------------------------------------------------------------
ANSWER = an_answer()
Rows = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def honest(function: Any = row_sums) -> tuple[Rows, Tensors]:
    """The rows and the tensors that an honest worker writes."""
    tensors: Tensors = {}
    runs = run_seeds(function, ANSWER.exercise, SEEDS)
    return {str(seed): [row_of(outcome, tensors) for outcome in outcomes] for seed, outcomes in runs.items()}, tensors


def written(rows: Any, tensors: Tensors) -> bytes:
    return pack_frame(json.dumps({"runs": rows, "notes": []}).encode(), save(tensors))


def assert_fails(frame: bytes) -> Verdict:
    verdict = judge_frame(ANSWER, frame)
    assert (verdict.verdict, verdict.points) == (FAILED, 0)
    assert len(verdict.message) < 400
    return verdict


def test_an_honest_frame_passes_and_wrong_values_do_not() -> None:
    assert judge_frame(ANSWER, written(*honest())).verdict == PASSED
    assert "is not right" in assert_fails(written(*honest(lambda rows, scale: rows.sum(-1) * scale * 1.01))).message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        "{}",
        '{"runs": {"11": 5}, "notes": []}',
        '{"runs": {"11": [5]}, "notes": []}',
        '{"runs": {"x": []}, "notes": []}',
        '{"runs": {"11": [], "23": [], "47": []}, "notes": []}',
        '{"runs": [], "notes": []}',
        '{"runs": {}}',
        "[" * 100_000,
        "\xff",
    ],
    ids=lambda text: text[:30],
)
def test_json_of_another_form_fails(text: str) -> None:
    assert_fails(pack_frame(text.encode("latin-1"), save(honest()[1])))


@pytest.mark.parametrize("notes", [None, 5, {"a": 1}, [[]] * 50, ["x" * 10**6, 7, None]], ids=lambda notes: str(notes)[:20])
def test_notes_of_any_form_change_no_verdict(notes: Any) -> None:
    rows, tensors = honest(lambda rows, scale: rows)
    frame = pack_frame(json.dumps({"runs": rows, "notes": notes}).encode(), save(tensors))
    assert len(assert_fails(frame).details) < 6000


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        [],
        {},
        {"tensor": "99"},
        {"tensor": ["0"]},
        {"tensor": {}},
        {"plain": 1, "list": []},
        {"plain": {"deep": [1]}},
        {"list": 5},
        {"dict": [[{"list": []}, {"plain": 1}]]},
        {"dict": [5]},
        {"float": "abc"},
        {"float": None},
        {"other": [1]},
        {"pickle": "x"},
        {"plain": math.nan},
    ],
    ids=str,
)
def test_values_of_another_form_fail(value: Any) -> None:
    rows, tensors = honest()
    rows["23"][1]["value"] = value
    assert_fails(written(rows, tensors))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.pop("47"),
        lambda rows: rows.update({"48": rows.pop("47")}),
        lambda rows: rows["11"].pop(),
        lambda rows: rows["11"].append(rows["11"][0]),
        lambda rows: rows["11"].clear(),
        lambda rows: rows["11"].reverse(),
        lambda rows: rows["47"][1].pop("error"),
        lambda rows: rows["47"][1].update(error=None),
        lambda rows: rows["47"][1].update(error=["x"]),
        lambda rows: rows["47"][1].update(error_kind=5),
        lambda rows: rows["47"][1].update(changed={"a": 1}),
        lambda rows: rows["47"][1].update(changed="argument 1"),
        lambda rows: rows["47"][1].update(error="it raised X", error_kind="OutOfTimeError"),
        lambda rows: rows["47"][1].pop("value"),
    ],
)
def test_rows_of_another_form_fail(change: Any) -> None:
    rows, tensors = honest()
    change(rows)
    assert_fails(written(rows, tensors))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors: {},
        lambda tensors: {name: torch.zeros(t.shape) for name, t in tensors.items()},
        lambda tensors: {name: t[None] for name, t in tensors.items()},
        lambda tensors: {name: t.half() * 0 for name, t in tensors.items()},
        lambda tensors: {name: torch.full(t.shape, math.nan) for name, t in tensors.items()},
    ],
)
def test_missing_or_wrong_tensors_fail(spoil: Any) -> None:
    rows, tensors = honest()
    assert_fails(written(rows, spoil(tensors)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: b"",
        lambda frame: frame[:10],
        lambda frame: frame[:-3],
        lambda frame: b"\xff" * 100,
        lambda frame: frame + b"x",
        lambda frame: frame + frame,
        lambda frame: pack_frame(unpack_frame(frame)[0], b"\xff" * 100),
        lambda frame: pack_frame(unpack_frame(frame)[0]),
    ],
)
def test_other_bytes_than_one_whole_frame_fail(spoil: Any) -> None:
    assert_fails(spoil(written(*honest())))


def test_a_right_answer_that_cannot_be_computed_here_is_not_the_learners_fault() -> None:
    def no_server(*arguments: Any) -> Any:
        raise NotAvailable("there is no server here")

    with pytest.raises(NotAvailable, match="no server here"):
        judge_frame(replace(ANSWER, reference=no_server), written(*honest()))
