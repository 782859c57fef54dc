"""The answer to exercise 6.5: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab06.recovery import MASKED_ADAM


def masked_adam(
    weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, mask: Tensor, rate: float, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference solution of exercise 6.5."""
    return _step(weight, gradient, mean, square, mask, rate, step)


def _step(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    mask: Tensor,
    rate: float,
    step: int,
    *,
    masks: str = "both",
    upside_down: bool = False,
    corrected: bool = True,
    sign: int = 1,
    root: bool = True,
    squared: bool = True,
    old: bool = False,
    from_zero: bool = False,
    masks_averages: bool = False,
    epsilon: str = "outside",
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of Adam with a mask. Options make the known mistakes."""
    kept = ~mask if upside_down else mask
    g = gradient * kept if masks in ("both", "gradient") else gradient
    new_mean = 0.9 * mean + 0.1 * g
    new_square = 0.999 * square + 0.001 * (g.square() if squared else g.abs())
    if masks_averages:
        new_mean, new_square = new_mean * kept, new_square * kept
    t = step - 1 if from_zero else step
    m, v = (mean, square) if old else (new_mean, new_square)
    if corrected:
        m, v = m / (1 - 0.9**t or 1.0), v / (1 - 0.999**t or 1.0)
    outside, inside = (1e-8 if epsilon == where else 0.0 for where in ("outside", "inside"))
    change = rate * m / (((v + inside).sqrt() if root else v) + outside)
    new = weight - sign * change
    return new * kept if masks in ("both", "weight") else new, new_mean, new_square


MASKED_ADAM_ANSWER = Answer(
    exercise=MASKED_ADAM,
    reference=masked_adam,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The mask is not used: pruned weights grow again, and the matrix is dense after a step.",
            partial(_step, masks="none"),
        ),
        Mistake(
            "The weights are right, but the averages count the gradients of pruned weights: set these gradients to 0 first.",
            partial(_step, masks="weight"),
        ),
        Mistake(
            "A pruned weight moves, because its averages remember earlier steps: the new weight must be 0 there.",
            partial(_step, masks="gradient"),
        ),
        Mistake("Your mask is upside down: True is a weight that is kept.", partial(_step, upside_down=True)),
        Mistake(
            "The averages begin at 0, so they are too small at first: the divisions that depend on the step are missing.",
            partial(_step, corrected=False),
        ),
        Mistake("You add the change; a step goes against the gradient.", partial(_step, sign=-1)),
        Mistake("The square root is missing from the divisor.", partial(_step, root=False)),
        Mistake("The second average is over squared gradients; you average their magnitudes.", partial(_step, squared=False)),
        Mistake("The change uses the old averages; compute the new ones first.", partial(_step, old=True)),
        Mistake(
            "You mask the averages themselves; set only the gradient to 0, so that old gradients fade from the "
            "averages step by step.",
            partial(_step, masks_averages=True),
        ),
        Mistake("You add 1e-8 before the square root; add it after the square root.", partial(_step, epsilon="inside")),
        Mistake("An average that is still 0 makes the quotient 0 / 0: the 1e-8 is missing.", partial(_step, epsilon="nowhere")),
        Mistake("The first step has the number 1; you count from 0.", partial(_step, from_zero=True)),
    ),
    names={"[0]": "weight", "[1]": "mean", "[2]": "square"},
)
ANSWERS = (MASKED_ADAM_ANSWER,)
