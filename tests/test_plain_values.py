"""Values that pass between processes: a round trip keeps them, and no file of a hostile process can stop the grader."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit.grading.call import Outcome, run_seeds
from labkit.grading.judge import SEEDS
from labkit.grading.notebook_check import judge_files
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


# Files of a hostile process ---------------------------------------------------------------------------------------------
ANSWER = an_answer()


def honest(folder: Path, function: Any = row_sums) -> dict[str, Any]:
    """The files of a worker, and the content of its JSON file."""
    tensors: dict[str, torch.Tensor] = {}
    runs = run_seeds(function, ANSWER.exercise, SEEDS)
    rows = {str(seed): [row_of(outcome, tensors) for outcome in outcomes] for seed, outcomes in runs.items()}
    save_file(tensors, folder / "tensors.safetensors")
    write(folder, rows)
    return rows


def write(folder: Path, rows: Any) -> None:
    (folder / "outcomes.json").write_text(json.dumps(rows))


def assert_fails(folder: Path) -> Verdict:
    verdict = judge_files(ANSWER, folder)
    assert (verdict.verdict, verdict.points) == (FAILED, 0)
    assert len(verdict.message) < 400
    return verdict


def test_honest_files_pass_and_wrong_values_do_not(tmp_path: Path) -> None:
    honest(tmp_path)
    assert judge_files(ANSWER, tmp_path).verdict == PASSED
    honest(tmp_path, lambda rows, scale: rows.sum(-1) * scale * 1.01)
    assert "wrong values" in assert_fails(tmp_path).message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        "{}",
        '{"11": 5}',
        '{"11": [5]}',
        '{"x": []}',
        "[" * 100_000,
        '{"11": [], "23": [], "47": []}',
        "\xff",
    ],
    ids=lambda text: text[:20],
)
def test_json_of_another_form_fails(text: str, tmp_path: Path) -> None:
    honest(tmp_path)
    (tmp_path / "outcomes.json").write_text(text, "latin-1")
    assert_fails(tmp_path)


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
def test_values_of_another_form_fail(value: Any, tmp_path: Path) -> None:
    rows = honest(tmp_path)
    rows["23"][1]["value"] = value
    write(tmp_path, rows)
    assert_fails(tmp_path)


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
def test_rows_of_another_form_fail(change: Any, tmp_path: Path) -> None:
    rows = honest(tmp_path)
    change(rows)
    write(tmp_path, rows)
    assert_fails(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: save_file({}, path),
        lambda path: save_file({name: torch.zeros(t.shape) for name, t in load_file(path).items()}, path),
        lambda path: save_file({name: t[None] for name, t in load_file(path).items()}, path),
        lambda path: save_file({name: t.half() * 0 for name, t in load_file(path).items()}, path),
        lambda path: save_file({name: torch.full(t.shape, math.nan) for name, t in load_file(path).items()}, path),
    ],
)
def test_missing_or_wrong_tensors_fail(spoil: Any, tmp_path: Path) -> None:
    honest(tmp_path)
    spoil(tmp_path / "tensors.safetensors")
    assert_fails(tmp_path)


@pytest.mark.parametrize("name", ["outcomes.json", "tensors.safetensors"])
def test_files_that_are_none_or_too_large_are_not_read(name: str, tmp_path: Path) -> None:
    honest(tmp_path)
    path = tmp_path / name
    path.rename(tmp_path / "real")
    path.symlink_to(tmp_path / "real")
    assert "is not a file" in assert_fails(tmp_path).message
    for make in (os.mkfifo, os.mkdir, lambda place: os.symlink("/dev/zero", place)):
        path.unlink() if not path.is_dir() else path.rmdir()
        make(path)
        assert_fails(tmp_path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(10**12)  # a sparse file, which takes no space on the disk
    assert "of at most 64 MiB" in assert_fails(tmp_path).message
