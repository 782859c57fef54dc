"""The answer to exercise 6.2: reference, comparison and known mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab06.wanda import WANDA_SCORES


def wanda_scores(weight: Tensor, inputs: Tensor) -> Tensor:
    """The reference solution of exercise 6.2."""
    return _scores(weight, inputs)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "norm": lambda x: x.norm(dim=0),
    "square": lambda x: x.square().sum(0),
    "mean": lambda x: x.square().mean(0).sqrt(),
    "sum": lambda x: x.abs().sum(0),
    "mean of magnitudes": lambda x: x.abs().mean(0),
    "signed": lambda x: x.sum(0).abs(),
    "largest": lambda x: x.abs().amax(0),
    "all": lambda x: x.norm().expand(x.shape[1]),
    "none": lambda x: torch.ones_like(x[0]),
}
"""Functions that compute one number for each column of the inputs. The first is right; the others are known mistakes."""


def _scores(weight: Tensor, inputs: Tensor, *, norm: str = "norm", magnitude: bool = True, squared: bool = False) -> Tensor:
    """Return the scores. Options make the known mistakes."""
    size = weight.abs() if magnitude else weight
    return (size.square() if squared else size) * NORMS[norm](inputs)


def _inputs_alone(weight: Tensor, inputs: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(inputs, dim=0)
    return norms.expand_as(weight).clone()


WANDA_SCORES_ANSWER = Answer(
    exercise=WANDA_SCORES,
    reference=wanda_scores,
    comparison=Comparison(),
    mistakes=(
        Mistake("A negative weight is as important as a positive one: take its magnitude.", partial(_scores, magnitude=False)),
        Mistake("The inputs are missing: these are magnitudes of weights.", partial(_scores, norm="none")),
        Mistake("The weights are missing: these are norms of inputs.", _inputs_alone),
        Mistake(
            "The norm is the square root of the sum of squares; your square root is missing.", partial(_scores, norm="square")
        ),
        Mistake(
            "You take the mean over the tokens; the formula uses the sum. (The mask would be the same.)",
            partial(_scores, norm="mean"),
        ),
        Mistake("You add up the magnitudes of the inputs; the norm adds up their squares.", partial(_scores, norm="sum")),
        Mistake(
            "You take the mean of the inputs' magnitudes; the norm is the square root of the sum of squares.",
            partial(_scores, norm="mean of magnitudes"),
        ),
        Mistake(
            "You add up the inputs with their signs, so they cancel out; the norm adds up squares.",
            partial(_scores, norm="signed"),
        ),
        Mistake("You take the largest input of each column; the norm counts all tokens.", partial(_scores, norm="largest")),
        Mistake("All columns get the same norm; each input needs its own, over the tokens.", partial(_scores, norm="all")),
        Mistake("You square the weights; the formula uses their magnitudes.", partial(_scores, squared=True)),
    ),
)
ANSWERS = (WANDA_SCORES_ANSWER,)
