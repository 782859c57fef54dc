"""Whether an answer counts as right depends on its size, precision and type. Zero is never right in place of a small number."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from labkit.exercises.comparison import Comparison

SIZES = [1e-12, 1e-8, 1.0, 1e8, 1e30]


def reason(found: Any, expected: Any, **settings: Any) -> str:
    difference = Comparison(**settings).difference(found, expected)
    return difference.reason if difference else ""


def a_tensor(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("size", SIZES)
def test_zero_never_passes_for_something(size: float) -> None:
    for expected in (size, -size, a_tensor() * size, (a_tensor() * size).double()):
        zero = torch.zeros_like(expected) if isinstance(expected, torch.Tensor) else 0.0
        assert reason(zero, expected) == "value"
        assert reason(expected * 1.01, expected) == "value"
        assert reason(-expected, expected) == "value"
        assert reason(expected * (1 + 1e-10), expected) == ""
    half = (a_tensor() * max(1e-3, min(size, 100))).half()
    assert reason(torch.zeros_like(half), half) == "value"


def test_one_wrong_element_is_found_however_many_are_right() -> None:
    expected = torch.ones(100_000)
    found = expected.clone()
    found[77_777] = 1.001
    assert reason(found, expected) == "value"
    found[77_777] = math.nan
    assert reason(found, expected) == "not finite"


@pytest.mark.parametrize(
    ("dtype", "passes", "fails"),
    [
        (torch.float64, 1e-10, 1e-8),
        (torch.float32, 1e-5, 1e-3),
        (torch.float16, 3e-3, 3e-2),
        (torch.bfloat16, 1e-2, 1e-1),
    ],
)
def test_tolerance_follows_the_less_precise_dtype(dtype: torch.dtype, passes: float, fails: float) -> None:
    expected = a_tensor(torch.float64)
    for reference in (expected, expected.to(dtype)):
        assert reason((expected * (1 + passes)).to(dtype), reference, relative=0.0) == ""
        assert reason((expected * (1 + fails)).to(dtype), reference, relative=0.0) == "value"


def test_a_wider_tolerance_can_be_asked_for_and_a_narrower_one_not() -> None:
    expected = a_tensor()
    assert reason(expected * 1.03, expected, relative=0.05) == ""
    assert reason(expected * 1.07, expected, relative=0.05) == "value"
    assert reason(expected * (1 + 2e-5), expected, relative=1e-9) == ""


def test_kinds_and_shapes_of_tensors() -> None:
    expected = a_tensor()
    assert reason(expected.T, expected) == "shape"
    assert reason(expected[None], expected) == "shape"
    assert reason(expected.long(), expected) == "dtype"
    assert reason(expected.tolist(), expected) == "type"
    assert reason(None, expected) == "type"
    ids = torch.tensor([50_000, 7])
    assert reason(ids.int(), ids) == ""
    assert reason(ids.float(), ids) == "dtype"
    assert reason(ids + torch.tensor([0, 1]), ids) == "value"
    assert reason(torch.tensor([True, False]), torch.tensor([True, True])) == "value"
    assert reason(torch.zeros(5, 7, requires_grad=True) + expected, expected) == ""


def test_numbers() -> None:
    assert reason(2**53 + 1, 2**53) == "value"
    assert reason(6_050_882_784, 6_050_882_784) == ""
    assert reason(6_050_882_784.0, 6_050_882_784) == ""
    assert reason(6_050_882_783, 6_050_882_784) == "value"
    assert reason(7.0000001, 7) == "value"
    assert reason(7, 7.000001) == ""
    assert reason("7", 7) == "type"
    assert reason(True, 1) == "type"
    assert reason(1, True) == "value"
    assert reason(None, 0.0) == "type"
    assert reason(0.0, 0.0) == ""
    assert reason(1e-300, 0.0) == "value"
    for none in (math.nan, math.inf, -math.inf):
        assert reason(none, 1.0) == "not finite"
        assert reason(none, 1) == "not finite"


def test_numpys_and_torchs_scalars_are_numbers() -> None:
    assert reason(np.int64(7), 7) == ""
    assert reason(np.float64(0.5), 0.5) == ""
    assert reason(np.float32(0.1), 0.1) == ""
    assert reason(torch.tensor(0.5), 0.5) == ""
    assert reason(torch.tensor([3]), 3) == "type"
    assert reason(np.int64(8), 7) == "value"
    assert reason(np.float64("nan"), 0.5) == "not finite"
    assert reason(torch.tensor(0.6), 0.5) == "value"
    assert reason(torch.tensor([3, 3]), 3) == "type"


def test_nested_answers_name_the_place() -> None:
    expected = {"tokens": [1, 2, (0.5, "memory")], "loss": a_tensor()}
    assert reason({"loss": a_tensor(), "tokens": (1, 2, [0.5, "memory"])}, expected) == ""
    assert reason(OrderedDict(expected), expected) == ""
    comparison = Comparison()
    for found, path, why in [
        ({**expected, "tokens": [1, 2, (0.5, "compute")]}, "['tokens'][2][1]", "value"),
        ({**expected, "tokens": [1, 3, (0.5, "memory")]}, "['tokens'][1]", "value"),
        ({**expected, "tokens": [1, 2]}, "['tokens']", "length"),
        ({**expected, "tokens": [1, 2, 0.5]}, "['tokens'][2]", "type"),
        ({**expected, "loss": torch.zeros(5, 7)}, "['loss']", "value"),
        ({"tokens": expected["tokens"]}, "", "keys"),
        ({**expected, "more": 1}, "", "keys"),
        ([1, 2], "", "type"),
    ]:
        difference = comparison.difference(found, expected)
        assert difference is not None
        assert (difference.path, difference.reason) == (path, why)
