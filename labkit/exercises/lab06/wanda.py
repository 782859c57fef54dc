"""Exercise 6.2: Wanda's scores, in which the size of a weight's input counts as much as the weight."""

from __future__ import annotations

import torch

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05 import tensors
from labkit.exercises.lab05.draws import Draws
from labkit.plurals import counted


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    rows, columns, tokens = draws.pick.randrange(3, 9), 4 * draws.pick.randrange(3, 12), draws.pick.randrange(5, 30)
    weight = tensors.weight("transformer.h.0.mlp.fc_out.weight")[:rows, :40].clone()
    silent = draws.normal(9, 12)
    silent[:, draws.pick.randrange(12)] = 0
    loud = draws.normal(tokens, columns)
    loud[:, draws.pick.randrange(columns)] *= 30
    cases = [
        ("fc_out of gptj-tiny and its inputs", weight, draws.real_inputs(17)[:, :40].clone()),
        ("one input is 30 times as large", draws.normal(rows, columns), loud),
        ("an input that is always 0", draws.normal(4, 12), silent),
        ("one token", draws.normal(3, 8), draws.normal(1, 8)),
        ("as many tokens as outputs and inputs", draws.normal(8, 8), draws.normal(8, 8)),
        ("negative weights", draws.negative(2, 20), draws.heavy_tailed(25, 20)),
    ]
    return [Case(f"{label}, {list(w.shape)}, {counted(len(x), 'token')}", (w, x.to(torch.float32))) for label, w, x in cases]


WANDA_SCORES = Exercise(
    name="lab06.wanda_scores",
    lab="06",
    number="6.2",
    title="A weight and its input",
    function="wanda_scores",
    statement=(
        "Return the scores of Wanda, `[out, in]`: $|W_{ij}| \\cdot \\lVert x_j \\rVert_2$. `weight` is $W$, `[out, in]`. "
        "`inputs` `[tokens, in]` are the layer's inputs for some text, and $\\lVert x_j \\rVert_2$ is the norm of column j: the "
        "square root of the sum of the squares over all tokens."
    ),
    points=12,
    minutes=5,
    difficulty=2,
    core=True,
    cases=_cases,
    hints=(
        "A weight that is multiplied by 0 for every token: how important is it?",
        "The norm of each column of inputs is a tensor of length in. Multiplied with the magnitudes, it is used for every row.",
        "norms = inputs.norm(dim=0)  # one number for each column of weight",
    ),
)
EXERCISES = (WANDA_SCORES,)
