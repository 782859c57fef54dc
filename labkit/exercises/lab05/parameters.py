"""Exercise 5.1: the scale and the zero point of a range of numbers."""

from __future__ import annotations

from typing import Any

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    between = draws.pick.uniform
    real, equal = draws.real_inputs(20), between(0.5, 3)
    ranges = {
        "numbers around 0": (-between(0.1, 5), between(0.1, 5)),
        "inputs of fc_out in gptj-tiny": (round(float(real.min()), 2), round(float(real.max()), 2)),
        "all numbers positive": (between(1, 2), between(3, 9)),
        "all numbers negative": (-between(3, 9), -between(1, 2)),
        "one outlier": (-40.0, between(1, 3)),
        "all numbers equal": (equal, equal),
        "all numbers 0": (0.0, 0.0),
    }
    cases = []
    for label, (low, high) in ranges.items():
        bits = draws.pick.choice([8, 8, 4, 3, 2])
        for symmetric in (True, False):
            words = f"{label}, {bits} bits, {'symmetric' if symmetric else 'asymmetric'}"
            cases.append(Case(words, (low, high, bits, symmetric)))
    width = between(2, 6)
    for bits, part in ((8, 0.7), (4, 0.3)):  # `part` of a step: the cases need both rounding up and rounding down
        low = -(2 ** (bits - 2) + part) / (2**bits - 1) * width
        cases.append(Case(f"a zero point between two integers, {bits} bits, asymmetric", (low, low + width, bits, False)))
    return cases


def _free_zero_point(case: Case, value: Any) -> Any:
    """Return the answer. If all numbers are 0, any zero point in the integers' range is right, and the lowest replaces it."""
    low, high, bits, symmetric = case.args
    if low or high or symmetric or not isinstance(value, tuple) or len(value) != 2 or type(value[1]) is not int:
        return value
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return (value[0], lowest) if lowest <= value[1] <= highest else value


QUANTIZATION_PARAMETERS = Exercise(
    name="lab05.quantization_parameters",
    lab="05",
    number="5.1",
    title="Scale and zero point",
    function="quantization_parameters",
    statement=(
        "Return `(scale, zero_point)` for numbers from `low` to `high`. The integers go from $-2^{bits-1}$ to $2^{bits-1}-1$."
        "\n\n- `symmetric`: the largest magnitude becomes the highest integer, and `zero_point` is 0.\n- Otherwise: widen the "
        "range until it contains 0. Then `low` becomes the lowest integer and `high` the highest; round `zero_point` to an "
        "`int`.\n\nIf all numbers are 0, the scale is 1.0 (and every `zero_point` among the integers is right)."
    ),
    points=10,
    minutes=8,
    difficulty=2,
    core=True,
    cases=_cases,
    hints=(
        "How many steps are there between the lowest and the highest integer? Which integer stands for 0?",
        "Asymmetric: first widen the range so that it contains 0. The scale is its width, divided by the number of steps between "
        "the integers. Then the lower end must become the lowest integer: this gives the zero point.",
        "scale = (high - low) / (2**bits - 1); zero_point = round(-2**(bits - 1) - low / scale). Symmetric: scale = max(abs(low), abs(high)) / (2**(bits - 1) - 1).",
    ),
    observe=_free_zero_point,
)
EXERCISES = (QUANTIZATION_PARAMETERS,)
