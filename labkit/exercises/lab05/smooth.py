"""Exercise 5.7: SmoothQuant moves the difficulty of large activations into the weight."""

from __future__ import annotations

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05 import tensors
from labkit.exercises.lab05.draws import Draws


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    columns = draws.pick.randrange(5, 30)
    weight = draws.normal(7, columns)
    silent, dead = draws.normal(columns).abs() + 0.1, draws.normal(4, 9)
    silent[2], dead[:, 1] = 0, 0
    real = tensors.weight("transformer.h.0.mlp.fc_out.weight")[:30, :64].clone()
    inputs = draws.real_inputs(100)[:, :64].abs().amax(0)
    return [
        Case("fc_out of gptj-tiny, alpha 0.5", (real, inputs, 0.5)),
        Case("random, alpha 0.75", (weight, draws.normal(columns).abs() * 9, 0.75)),
        Case("an input that is always 0, alpha 0.5", (weight, silent, 0.5)),
        Case("a column of zeros, alpha 0.3", (dead, draws.normal(9).abs(), 0.3)),
        Case("one large input, alpha 0.6", (draws.negative(3, 8), draws.one_outlier(8).abs(), 0.6)),
    ]


SMOOTH = Exercise(
    name="lab05.smooth",
    lab="05",
    number="5.7",
    title="SmoothQuant: who carries the outliers?",
    function="smooth",
    statement=(
        "`weight` is `[out, in]`; `largest` `[in]` is the largest magnitude of each input. Return `(factors, new_weight)`: the "
        "inputs are divided by `factors` `[in]`, and the columns of the weight are multiplied by them.\n\n$$s_j = "
        "\\frac{\\max|x_j|^{\\alpha}}{\\max_o|W_{oj}|^{1-\\alpha}}$$\n\nWhere the input or the column is always 0, the factor "
        "is 1."
    ),
    points=7,
    minutes=8,
    difficulty=2,
    cases=_cases,
    hints=(
        "The matrix product must not change. If x is divided by s, what must happen to the weight, and to which of its "
        "dimensions?",
        "The largest magnitude of each column of a weight [out, in] is a maximum over dimension 0.",
        "factors = largest.pow(alpha) / weight.abs().amax(0).pow(1 - alpha); use torch.where for the zeros.",
    ),
)
EXERCISES = (SMOOTH,)
