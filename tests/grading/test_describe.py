"""A wrong answer is described in words and as a map: the place, the factor and the kind of error, but not the right numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labkit.exercises.comparison import Comparison
from labkit.exercises.describe import Description, brief, describe_difference, mismatch_map
from labkit.plain_values import Foreign


def described(found: Any, expected: Any) -> Description:
    difference = Comparison().difference(found, expected)
    assert difference is not None
    return describe_difference(difference)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def map_of(description: Description) -> list[str]:
    return description.details.splitlines()[2:]


@pytest.mark.parametrize("error", [2e-4, 0.01, 5.0])
def test_the_map_marks_the_wrong_place(error: float) -> None:
    expected = random(5, 7)
    found = expected.clone()
    found[2, 3] += error * float(expected.abs().max())
    description = described(found, expected)
    assert map_of(description) == [".......", ".......", "...#...", ".......", "......."]
    assert "first at index (2, 3)" in description.details
    assert "2.9 % of its elements" in description.message


def test_the_picture_has_a_legend_and_numbers() -> None:
    expected = torch.ones(2, 3)
    found = expected.clone()
    found[1, 2] = 7.5
    assert (
        "first at index (1, 2): got 7.5, expected 1; below: # wrong, . right, + some wrong and some right"
        in described(found, expected).details
    )
    found[1, 2] = float("nan")
    assert "first at index (1, 2): got nan, expected 1" in described(found, expected).details


def test_the_map_of_whole_numbers_marks_a_token_that_is_off_by_one() -> None:
    expected = torch.tensor([[50_000, 3, 7], [1, 2, 40_000]])
    found = expected.clone()
    found[1, 1] += 1
    description = described(found, expected)
    assert map_of(description) == ["...", ".#."]
    assert "16.7 %" in description.message


def test_a_cell_of_the_map_says_how_many_elements_it_covers() -> None:
    expected = random(20, 64)
    found = expected.clone()
    found[5, 40] += 9
    description = described(found, expected)
    assert map_of(description) == ["." * 32, "." * 20 + "+" + "." * 11, *["." * 32] * 5]
    assert "; each character covers 3 rows and 2 columns\n" in description.details
    assert "each character covers" not in described(expected[:8, :48] * 2, expected[:8, :48]).details


def test_one_number_has_no_map_and_no_factor() -> None:
    for shape in ((), (1,), (1, 1)):
        description = described(torch.full(shape, 1.006), torch.full(shape, 1.0))
        assert description == Description("The value is not right: it is too large.", "got 1.006")
    assert described(torch.tensor(2.0), torch.tensor(1.0)).message == "The value is not right: it is twice the right value."
    assert described(torch.tensor(True), torch.tensor(False)).details == "got True"


def test_only_the_keys_that_are_wrong_are_named() -> None:
    right = {f"transformer.h.{layer}.weight": layer for layer in range(60)}
    found = {name: layer for name, layer in right.items() if layer != 41} | {"transformer.h.60.weight": 60}
    assert described(found, right).details == "missing: transformer.h.41.weight\nnot asked for: transformer.h.60.weight"
    assert described({}, dict.fromkeys(range(9), 0)).details == "missing: 0, 1, 2, 3, 4, 5 and 3 more"
    assert "another type" in described({"1": 0}, {1: 0}).details


def test_there_is_no_negative_zero() -> None:
    assert "got 3, expected 0;" in described(torch.tensor([3.0, 1.0]), torch.tensor([-0.0, 1.0])).details


def test_the_map_of_a_large_tensor_is_small_and_keeps_the_place() -> None:
    wrong = torch.zeros(16, 3, 96, dtype=torch.bool)
    wrong[15, 2, 95] = True
    wrong[:2] = True
    lines = mismatch_map(wrong).splitlines()
    assert [len(line) for line in lines] == [48] * 8
    assert lines[0] == "#" * 48
    assert lines[-1] == "." * 47 + "+"
    assert set("".join(lines[1:-1])) == {"."}
    assert mismatch_map(torch.tensor(True)) == "#"


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (2, "twice"),
        (0.5, "half"),
        (-1, "the negative of"),
        (1000, "1000 times"),
        (1e-3, "a thousandth of"),
        (8, "8 times"),
        (1 / 8, "an eighth of"),
        (2**30 / 1e9, "GiB where GB is meant"),
        (1e9 / 2**30, "GB where GiB is meant"),
    ],
)
def test_a_known_factor_is_named(factor: float, words: str) -> None:
    number = described(37.5 * factor, 37.5).message
    assert words in number
    assert number.endswith("the right value.")
    assert words in described(random(4, 6) * factor, random(4, 6)).message


def test_an_unknown_factor_is_stated_for_tensors_and_the_direction_for_numbers() -> None:
    assert "off by the factor 1.7" in described(random(4, 6) * 1.7, random(4, 6)).message
    assert "too large" in described(11.3, 7.0).message
    assert "too small" in described(3.3, 7.0).message
    several = random(4, 6)
    several[0] *= 2
    assert "factor" not in described(several, random(4, 6)).message


def test_kinds_of_mistakes() -> None:
    assert described(None, 5).message == "The answer is None; it should be a whole number. Did you forget `return`?"
    assert described("5", 5.0).message == "The answer is a string; it should be a number."
    assert "all zeros" in described(torch.zeros(4, 6), random(4, 6)).message
    assert "transposed" in described(random(6, 4), random(4, 6)).message
    assert "transposed" not in described(random(5, 4), random(4, 6)).message
    whole = torch.ones(4, dtype=torch.long)
    assert "wrong dtype: it is int64; it should be float32." in described(whole, torch.ones(4)).message
    for dtype in (torch.uint8, torch.int8, torch.bool):
        kinds = f"it is int64; it should be {dtype}".replace("torch.", "")
        assert kinds in described(whole, whole.to(dtype)).message
    assert Comparison().difference(whole.int(), whole) is None
    assert described(torch.tensor([5]), 5).message == "The answer is a tensor; it should be a whole number."
    assert Comparison().difference(torch.tensor(5), 5) is None
    assert "NaN or infinite" in described(float("nan"), 5.0).message
    assert described(Foreign("ndarray"), 5.0).message == "The answer is a ndarray; it should be a number."


def test_the_place_in_a_nested_answer_is_named_as_it_is_written() -> None:
    expected = {"Tokens": [1, 2], "Loss": {"Mean": 0.5}}
    assert (
        described(expected | {"Tokens": [1]}, expected).message
        == "At ['Tokens'], your function returns 1 item; it should return 2 items."
    )
    assert described(expected | {"Loss": {"mean": 0.5}}, expected).message.startswith(
        "At ['Loss'], your function returns a dictionary"
    )
    assert described(expected | {"Tokens": [1, 5]}, expected).message.startswith("The value at ['Tokens'][1] is not right")
    assert described([1], [1, 2]).message == "Your function returns 1 item; it should return 2 items."


@pytest.mark.parametrize("expected", [123456.75, 987654, "secret", [123456, 2], random(3, 5)], ids=str)
def test_the_right_answer_is_not_shown(expected: Any) -> None:
    for found in (None, 1, 1.5, "x", [1, 2], [123, 2, 3], torch.zeros(3, 5), torch.zeros(2)):
        text = str(described(found, expected))
        shown = [expected] if not isinstance(expected, list | torch.Tensor) else [expected[0]]
        assert all(str(value) not in text for value in shown)
    assert brief(expected, hidden=True).count("123456") == 0
