"""Reads the answer sheet of a course copy: right values, but no reference implementations and no known mistakes.

The folder `answer_sheet` of the package holds two files, `sheet.json` and `values.safetensors`. `labkit release --course`
writes them. They contain no code, and reading them runs no code.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import labkit
from labkit.errors import NotAvailable
from labkit.exercises.comparison import Comparison
from labkit.exercises.input_sketch import InputSketch
from labkit.json_file import read_json_object
from labkit.plain_values import decode

FOLDER = Path(labkit.__file__).parent / "answer_sheet"
JSON_FILE, VALUES_FILE = "sheet.json", "values.safetensors"
FORMAT = 1
MOST_BYTES = 16 * 2**20
"""The largest accepted size of the JSON file in bytes. A sheet of all labs has about 0.2 MB."""
COMPARISONS = {"Comparison": Comparison}
"""The comparisons that a sheet can name. All other comparisons consist of code, which a sheet cannot contain."""


@dataclass(frozen=True)
class Row:
    """The answer to one exercise.

    The keys of `values`, `inputs` and `cases` are seeds. `cases` are the inputs that come with an answer.
    """

    comparison: Comparison
    names: Mapping[str, str]
    values: Mapping[int, list[Any]]
    inputs: Mapping[int, InputSketch]
    cases: Mapping[int, str]


@dataclass(frozen=True)
class Sheet:
    """An answer sheet. `checks` is the version of the checks from which the sheet was made.

    `left_out` gives the reason for each exercise that has no row.
    """

    labkit: str
    checks: str
    torch: str
    rows: Mapping[str, Row]
    left_out: Mapping[str, str]


@functools.cache
def read_sheet(folder: Path = FOLDER) -> Sheet | None:
    """The sheet in this folder, or None if the folder does not exist. Raises `NotAvailable` if the sheet is damaged."""
    if not folder.exists():
        return None
    try:
        found = read_json_object(folder / JSON_FILE, MOST_BYTES)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}; this labkit reads format {FORMAT}")
        tensors = load_file(folder / VALUES_FILE)
        rows = {name: _row(row, tensors) for name, row in found["exercises"].items()}
        return Sheet(found["labkit"], found["checks"], found["torch"], rows, dict(found["left_out"]))
    except Exception as error:  # The file may hold anything.
        words = f"{type(error).__name__}: {error}"
        raise NotAvailable(f"the answer sheet {folder} is damaged ({words}); install this copy of labkit again") from error


def _row(row: dict[str, Any], tensors: dict[str, Tensor]) -> Row:
    comparison = COMPARISONS[row["comparison"]["kind"]](float(row["comparison"]["relative"]))
    values = {int(seed): [decode(value, tensors) for value in values] for seed, values in row["values"].items()}
    inputs = {int(seed): InputSketch(one["plain"], tuple(map(float, one["sums"]))) for seed, one in row["inputs"].items()}
    cases = {int(seed): str(text) for seed, text in row["cases"].items()}
    return Row(comparison, dict(row["names"]), values, inputs, cases)
