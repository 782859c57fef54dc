"""Exercise 6.5: a training step that changes only the weights that a mask keeps."""

from __future__ import annotations

from labkit.compress.two_four import two_four_mask
from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws


def _case(draws: Draws, label: str, rows: int, columns: int, step: int, rate: float, *, first: bool = False) -> Case:
    """A training step of a matrix. Its running averages come from a dense training, so they are not 0 where the mask prunes.

    If `first` is set, all averages are 0.
    """
    mask = two_four_mask(draws.normal(rows, columns).abs())
    mean, square = draws.normal(rows, columns, scale=0.02), draws.normal(rows, columns, scale=0.03).square()
    if first:
        mean, square = mean * 0, square * 0
    weight, gradient = draws.normal(rows, columns) * mask, draws.normal(rows, columns, scale=0.1)
    return Case(f"{label}, [{rows}, {columns}], step {step}", (weight, gradient, mean, square, mask, rate, step))


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    many = draws.pick.randrange(3, 40)
    return [
        _case(draws, "the first step", 3, 12, 1, 1e-2, first=True),
        _case(draws, "the first step after a dense training", 5, 8, 1, 1e-2),
        _case(draws, "a later step", draws.pick.randrange(2, 9), 20, many, draws.pick.uniform(1e-3, 1e-1)),
        _case(draws, "one four", 1, 4, 7, 1e-2),
        _case(draws, "a large rate", 4, 16, 200, 0.3),
    ]


MASKED_ADAM = Exercise(
    name="lab06.masked_adam",
    lab="06",
    number="6.5",
    title="A step that keeps the mask",
    function="masked_adam",
    statement=(
        "Do one step of Adam that keeps the mask. Set the gradient $g$ to 0 where `mask` is `False`. Then "
        "$m = 0.9\\,m + 0.1\\,g$ (`mean`), $v = 0.999\\,v + 0.001\\,g^2$ (`square`), and "
        "$w = w - r \\cdot \\frac{m}{1 - 0.9^t} \\big/ \\left(\\sqrt{\\frac{v}{1 - 0.999^t}} + 10^{-8}\\right)$ with `rate` $r$ and "
        "`step` $t$ (from 1). The new weight is 0 where the mask is `False`, whatever the averages were before. "
        "Return `(weight, mean, square)` as new tensors."
    ),
    points=14,
    minutes=8,
    difficulty=3,
    core=True,
    cases=_cases,
    hints=(
        "The gradient of a pruned weight is not 0. And the averages can contain steps from before the mask. What moves the "
        "weight, then?",
        "The mask is used twice: on the gradient before the averages, and on the weight at the end.",
        "g = gradient * mask; mean = 0.9 * mean + 0.1 * g; the corrected mean is mean / (1 - 0.9**step)",
    ),
)
EXERCISES = (MASKED_ADAM,)
