"""Describes what is wrong with an answer: its type, its relation to the right value, or the places where a tensor differs."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.comparison import RELATIVE, Difference
from labkit.plain_values import Foreign
from labkit.plurals import counted

FACTORS = (
    (2, "twice"),
    (0.5, "half"),
    (1000, "1000 times"),
    (1e-3, "a thousandth of"),
    (1e6, "a million times"),
    (1e-6, "a millionth of"),
    (8, "8 times"),
    (1 / 8, "an eighth of"),
    (1024**3 / 1e9, "1.074 times (GiB where GB is meant, or GB where GiB is meant)"),
    (1e9 / 1024**3, "0.931 times (GB where GiB is meant, or GiB where GB is meant)"),
    (-1, "the negative of"),
)


LEGEND = "# wrong, . right, + some wrong and some right"
"""The meanings of the characters in `mismatch_map`."""
MAP_ROWS, MAP_COLUMNS = 8, 48
"""The largest number of rows and columns of `mismatch_map`."""
MOST_KEYS = 6
"""The most missing keys, and the most wrong keys, that a message names."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 12


@dataclass(frozen=True)
class Description:
    """A message for the learner, and lines that show where the answer is wrong."""

    message: str
    details: str


def describe_difference(difference: Difference) -> Description:
    """Describe a difference in words."""
    found, expected = difference.found, difference.expected
    place = f"At {difference.path}, your function" if difference.path else "Your function"
    shown = f"got      {brief(found)}\nexpected {brief(expected, hidden=True)}"
    if difference.reason == "type":
        forgot = " Did you forget `return`?" if found is None else ""
        return Description(f"The answer {_at(difference)}is {_kind(found)}; it should be {_kind(expected)}.{forgot}", shown)
    if difference.reason == "incomparable":
        return Description(f"The answer cannot be compared with the right answer, which is {_kind(expected)}.", shown)
    if difference.reason == "shape":
        turned = expected.dim() == 2 and tuple(found.shape) == tuple(expected.shape[::-1])
        more = " It looks transposed." if turned else ""
        return Description(f"The tensor {_at(difference)}has the wrong shape.{more}", shown)
    if difference.reason == "dtype":
        kinds = f"it is {_dtype(found)}; it should be {_dtype(expected)}"
        return Description(f"The tensor {_at(difference)}has the wrong dtype: {kinds}.", shown)
    if difference.reason == "length":
        return Description(
            f"{place} returns {counted(len(found), 'item')}; it should return {counted(len(expected), 'item')}.", shown
        )
    if difference.reason == "keys":
        return Description(f"{place} returns a dictionary with the wrong keys.", _keys(found, expected))
    if difference.reason == "not finite":
        if isinstance(expected, Tensor) and expected.numel() != 1:
            where = f"in {difference.path}, " if difference.path else ""
            shown += f"\n{where}{_first(found, expected, ~found.detach().cpu().double().isfinite())}"
        return Description(f"The answer {_at(difference)}is NaN or infinite somewhere.", shown)
    if isinstance(expected, Tensor) and expected.numel() != 1:
        return _describe_tensor(found, expected, difference)
    if isinstance(expected, Tensor):
        found, expected = _one_number(found), _one_number(expected)
    # At this point the type is right. The right value must stay hidden, so only the wrong value is shown.
    # A word, True or False tells the learner nothing without its place.
    named = f"{difference.path}: " if isinstance(found, bool | str) and difference.path else ""
    value = f"The value of {difference.path} " if difference.path.startswith("the ") else f"The value {_at(difference)}"
    return Description(f"{value}is not right{_factor(found, expected)}.", f"{named}got {brief(found)}")


def ended(text: str) -> str:
    """The text with a full stop added, unless it already ends with a punctuation mark that ends a sentence."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def brief(value: Any, *, hidden: bool = False) -> str:
    """Describe a value in one line. For a tensor, the line contains only the shape and the dtype.

    With `hidden`, only the type of the value is shown.
    """
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}, {_dtype(value)}"
    if hidden:
        return _kind(value) + (f" of {len(value)}" if isinstance(value, list | tuple | dict) else "")
    try:
        text = _SHORT.repr(value)
    except Exception:  # The value can be a number with thousands of digits, or its __repr__ can fail.
        text = _kind(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _at(difference: Difference) -> str:
    """The place of a difference in words: "at [1] ", or the exercise's own name for this place."""
    place = difference.path
    return "" if not place else f"{place} " if place[0] != "[" else f"at {place} "


def _one_number(tensor: Tensor) -> Any:
    """The value of a tensor with one number; a float is rounded to the digits that float32 holds."""
    value = tensor.item()
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _keys(found: list[str], expected: list[str]) -> str:
    """List only the missing and the superfluous keys, because a long list of right keys would hide them."""
    rows = {
        "missing": [key for key in expected if key not in found],
        "not asked for": [key for key in found if key not in expected],
    }
    lines = [f"{name}: {_some(keys)}" for name, keys in rows.items() if keys]
    return "\n".join(lines) or "the keys have the right names, but another type: 1 is not '1'"


def _some(names: list[str]) -> str:
    """A list of the first names, and the number of names that are left out."""
    more = len(names) - MOST_KEYS
    return ", ".join(names[:MOST_KEYS]) + (f" and {more} more" if more > 0 else "")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return "a tensor"
    names = {"int": "a whole number", "float": "a number", "str": "a string", "NoneType": "None", "bool": "True or False"}
    name = value.kind if isinstance(value, Foreign) else type(value).__name__
    return names.get(name, f"a {name}")


def _factor(found: Any, expected: Any) -> str:
    """A phrase that says how a wrong number relates to the right number; "" if the two cannot be compared."""
    if (
        isinstance(expected, bool)
        or not isinstance(expected, int | float)
        or not isinstance(found, int | float)
        or not expected
    ):
        return ""
    try:
        ratio = found / expected
    except OverflowError:
        return ": it is far too large"
    for factor, words in FACTORS:
        if abs(ratio / factor - 1) < 1e-6:
            return f": it is {words} the right value"
    return ": it is too large" if found > expected else ": it is too small"


def _describe_tensor(found: Tensor, expected: Tensor, difference: Difference) -> Description:
    a, b = found.detach().cpu().double(), expected.detach().cpu().double()
    relative = max(RELATIVE.get(found.dtype, 0.0), RELATIVE.get(expected.dtype, 0.0))  # 0.0 for whole numbers
    wrong = (a - b).abs() > relative * b.abs().max()
    share = float(wrong.double().mean())
    tensor = f"T{difference.path[1:]} " if difference.path.startswith("the ") else f"The tensor {_at(difference)}"
    if not bool(a.any()):
        message = f"{tensor}is all zeros."
    else:
        message = f"{tensor}has wrong values in {100 * share:.1f} % of its elements{_scale(a, b)}."
    largest = f"largest error {float((a - b).abs().max()):.3g}, {_first(found, expected, wrong)}"
    largest += f"; below: {LEGEND}{_scale_of_map(wrong)}"
    lines = [f"{difference.path or 'your answer'}: {brief(found)}", largest]
    return Description(message, "\n".join([*lines, mismatch_map(wrong)]))


def _first(found: Tensor, expected: Tensor, wrong: Tensor) -> str:
    """The first wrong element: its index, its value, and the right value."""
    place = tuple(int(i[0]) for i in wrong.nonzero(as_tuple=True)) if wrong.any() else ()
    if len(place) != wrong.dim():
        return "first at index ()"
    a, b = (tensor.detach().cpu()[place].item() for tensor in (found, expected))
    a, b = (0.0 if number == 0 else number for number in (a, b))  # there is no -0 in the exercises
    return f"first at index {place}: got {a:.6g}, expected {b:.6g}"


def _scale(a: Tensor, b: Tensor) -> str:
    """If every element is wrong by the same factor, a phrase that names the factor; otherwise ""."""
    if not bool(b.any()):
        return ""
    ratio = float((a * b).sum() / (b * b).sum())
    if not ratio or float((a - ratio * b).abs().max()) > 1e-4 * float(b.abs().max()):
        return ""
    known = next((words for factor, words in FACTORS if abs(ratio / factor - 1) < 1e-3), "")
    return f": every element is {known} the right value" if known else f": every element is off by the factor {ratio:.4g}"


def mismatch_map(wrong: Tensor) -> str:
    """A small picture of a tensor. "#" marks a wrong cell, "." a right cell, and "+" a cell with wrong and right elements.

    All cells cover the same number of rows and columns, so that the index of an element can be found. Only the last cells can
    cover fewer rows or columns.
    """
    flat = _as_rows(wrong).double()
    high, wide = _cell(flat)
    lines = []
    for part in torch.split(flat, high):
        cells = [float(cell.mean()) for cell in torch.split(part, wide, dim=1)]
        lines.append("".join("#" if cell == 1 else "." if cell == 0 else "+" for cell in cells))
    return "\n".join(lines)


def _as_rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def _cell(flat: Tensor) -> tuple[int, int]:
    """The number of rows and the number of columns that each character of the map covers."""
    return -(-flat.shape[0] // MAP_ROWS) or 1, -(-flat.shape[1] // MAP_COLUMNS) or 1


def _scale_of_map(wrong: Tensor) -> str:
    """A phrase that says what each character of the map covers; "" if that is one element."""
    high, wide = _cell(_as_rows(wrong))
    sizes = [counted(size, unit) for size, unit in ((high, "row"), (wide, "column")) if size > 1]
    return f"; each character covers {' and '.join(sizes)}" if sizes else ""
