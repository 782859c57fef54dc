"""The answer to exercise 6.1: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab06.mask import TWO_FOUR_MASK


def two_four_mask(scores: Tensor) -> Tensor:
    """The reference solution of exercise 6.1."""
    return _mask(scores)


def _mask(scores: Tensor, *, group: int = 4, kept: int = 2, descending: bool = True, magnitude: bool = False) -> Tensor:
    """Return the mask. Options make the known mistakes."""
    rows = (scores.abs() if magnitude else scores).reshape(-1, group)
    order = rows.argsort(dim=1, descending=descending, stable=True)[:, :kept]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True).view(scores.shape)


def _down_columns(scores: Tensor) -> Tensor:
    rows, columns = scores.shape
    padded = torch.nn.functional.pad(scores, (0, 0, 0, -rows % 4), value=-torch.inf)
    return _mask(padded.T.contiguous()).T[:rows, :columns].contiguous()


def _far_apart(scores: Tensor) -> Tensor:
    rows, columns = scores.shape
    strided = scores.view(rows, 4, columns // 4).transpose(1, 2).reshape(rows, columns)
    return _mask(strided).view(rows, columns // 4, 4).transpose(1, 2).reshape(rows, columns)


def _half_of_each_row(scores: Tensor) -> Tensor:
    order = scores.argsort(dim=1, descending=True, stable=True)[:, : scores.shape[1] // 2]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


def _half_of_all(scores: Tensor) -> Tensor:
    return _half_of_each_row(scores.reshape(1, -1)).view(scores.shape)


def _threshold(scores: Tensor) -> Tensor:
    fours = scores.reshape(-1, 4)
    return (fours >= fours.topk(2, dim=1).values[:, 1:]).view(scores.shape)


def _any_of_equal(scores: Tensor) -> Tensor:
    fours = scores.reshape(-1, 4)
    places = fours.topk(2, dim=1).indices
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(1, places, True).view(scores.shape)


def _above_the_median(scores: Tensor) -> Tensor:
    return scores > scores.median()


def _always_the_first_two(scores: Tensor) -> Tensor:
    mask = torch.zeros_like(scores, dtype=torch.bool).view(-1, 4)
    mask[:, :2] = True
    return mask.view(scores.shape)


def _four_long_rows(scores: Tensor) -> Tensor:
    rows = scores.reshape(4, -1)
    order = rows.argsort(dim=0, descending=True, stable=True)[:2]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(0, order, True).view(scores.shape)


def _fours_of_the_transposed(scores: Tensor) -> Tensor:
    return _mask(scores.T.contiguous()).T.contiguous()


def _right_one(scores: Tensor) -> Tensor:
    return _mask(scores.flip(1)).flip(1)


TWO_FOUR_MASK_ANSWER = Answer(
    exercise=TWO_FOUR_MASK,
    reference=two_four_mask,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You keep the two smallest scores of each group; the largest are the important ones.",
            partial(_mask, descending=False),
        ),
        Mistake("You keep one of four; two of four must be True.", partial(_mask, kept=1)),
        Mistake("You keep three of four; two of four must be True.", partial(_mask, kept=3)),
        Mistake(
            "The scores are compared as they are: -3 is a smaller score than 1. You compare their magnitudes.",
            partial(_mask, magnitude=True),
        ),
        Mistake("A group consists of neighbours in a row; yours go down the columns.", _down_columns),
        Mistake("A group consists of neighbours; the members of yours are a quarter of a row apart.", _far_apart),
        Mistake(
            "You keep half of each row, but not two of every four: one of your groups may keep all of its weights, or none.",
            _half_of_each_row,
        ),
        Mistake("You keep half of the whole matrix, but not two of every four.", _half_of_all),
        Mistake("One median for the whole matrix keeps no pattern: compare scores only within their group.", _above_the_median),
        Mistake("You keep columns 0 and 1 of each group, whatever the scores are.", _always_the_first_two),
        Mistake(
            "The members of your groups are a quarter of the matrix apart, because you view it as four long rows; a "
            "group is four "
            "neighbours.",
            _four_long_rows,
        ),
        Mistake("You transpose the scores before you group them, but a group is within a row.", _fours_of_the_transposed),
        Mistake(
            "You keep the two largest, but of equal scores not always the left one: topk promises no order for equal numbers.",
            _any_of_equal,
        ),
        Mistake("With equal scores, you keep more than two of a group: a threshold cannot separate equal numbers.", _threshold),
        Mistake("Of equal scores, keep the one further to the left; you keep the one on the right.", _right_one),
    ),
)
ANSWERS = (TWO_FOUR_MASK_ANSWER,)
