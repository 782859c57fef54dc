"""The answer to exercise 2.3: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.kernel_guard import OutsideTensor
from labkit.exercises.lab02.residual_norm import FUSED_RESIDUAL_LAYER_NORM

Pair = tuple[Tensor, Tensor]


def _block(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def _norm(hidden: Tensor, weight: Tensor, bias: Tensor, epsilon: float, **wrong: Any) -> Tensor:
    """Compute a layer norm. Each option makes one part of the computation wrong.

    Some options are functions, which are called with the hidden size. The layer norm is computed in float64, because the
    result of `F.layer_norm` in float32 is wrong by a thousandth if the mean is large.
    """
    x, size = hidden.float() if wrong.get("of_squares") else hidden.double(), hidden.shape[-1]
    mean = x.sum(-1, keepdim=True) / wrong.get("mean_over", int)(size)
    squares = (x - mean).square().sum(-1, keepdim=True)
    if wrong.get("of_squares"):
        squares = x.square().sum(-1, keepdim=True) - size * mean.square()
    squares = squares + wrong.get("padded", _nothing)(size) * mean.square()
    variance = squares / wrong.get("variance_over", int)(size)
    scale = 1 / (variance.sqrt() + epsilon) if wrong.get("epsilon_is") == "outside" else (variance + epsilon).rsqrt()
    normed: Tensor = (x - mean) * scale * weight + bias
    return normed.to(hidden.dtype)


def _nothing(size: int) -> int:
    return 0


def _padding(size: int) -> int:
    return _block(size) - size


def residual_layer_norm(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    """The reference solution of exercise 2.3."""
    return _faulty(residual, attention, mlp, weight, bias, epsilon)


def _unmasked(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    if _block(residual.shape[1]) != residual.shape[1]:
        raise OutsideTensor("a program reads memory past the end of a tensor")
    return residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)


def _faulty(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float, **wrong: Any
) -> Pair:
    """Return the result of a kernel with mistakes. It takes the options of `_norm`, and the option `in_half`.

    `in_half` says which sums are computed in the dtype of the arguments: "the three" means only the sum of the three tensors,
    and "all" means all sums.
    """
    hidden = attention + mlp + residual
    if not wrong.get("in_half"):
        hidden = (attention.double() + mlp.double() + residual.double()).to(hidden.dtype)
    squares = hidden.double().square().sum(-1)
    if wrong.get("in_half") == "all" and float(squares.max()) > torch.finfo(hidden.dtype).max:  # The sum overflows.
        return hidden, torch.full_like(hidden, torch.nan)
    return hidden, _norm(hidden, weight, bias, 0.0 if wrong.get("epsilon_is") == "missing" else epsilon, **wrong)


def _wrong(**options: Any) -> Any:
    """Make a wrong function that `Mistake.together` can combine with another wrong function."""
    return partial(_faulty, **options)


def _swapped(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    hidden, normed = residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)
    return normed, hidden


def _no_residual(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    return residual_layer_norm(torch.zeros_like(residual), attention, mlp, weight, bias, epsilon)


def _no_other(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    hidden, normed = residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)
    return hidden, normed if _block(hidden.shape[1]) == hidden.shape[1] else torch.full_like(hidden, torch.nan)


def _weight_by_place(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    if len(residual) > 1:
        raise OutsideTensor("the weight of the second row is read past the end of the weight tensor")
    return residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)


FUSED_RESIDUAL_LAYER_NORM_ANSWER = Answer(
    exercise=FUSED_RESIDUAL_LAYER_NORM,
    reference=residual_layer_norm,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You do not mask the last columns: a block is a power of two and extends past the end of the row. Every load and "
            "store needs a mask.",
            _unmasked,
        ),
        Mistake(
            "You divide the variance by BLOCK, but the row has size elements.",
            _wrong(variance_over=_block),
        ),
        Mistake(
            "Columns that the mask leaves out hold 0, and 0 - mean is not 0, so they add to your variance.",
            _wrong(padded=_padding),
        ),
        Mistake("You divide the mean by BLOCK, but the row has size elements.", _wrong(mean_over=_block)),
        Mistake("You add epsilon to the square root, but it belongs under the root.", _wrong(epsilon_is="outside")),
        Mistake(
            "You divide the variance by size - 1, but layer norm divides it by size.",
            _wrong(variance_over=lambda size: size - 1),
        ),
        Mistake("The residual is missing from your sum.", _no_residual),
        Mistake("In half precision your sums overflow: compute them in float32.", _wrong(in_half="all")),
        Mistake(
            "You add the three tensors in half precision, which rounds their sum: convert each one to float32 before you add.",
            _wrong(in_half="the three"),
        ),
        Mistake("You swapped hidden and normed: the sum comes first, then its layer norm.", _swapped),
        Mistake(
            "Elements that a mask leaves out are undefined (NaN here) unless the load gives them a value, and your sums "
            "contain them.",
            _no_other,
        ),
        Mistake("epsilon is missing; it belongs under the square root.", _wrong(epsilon_is="missing")),
        Mistake(
            "weight and bias have only one row, which all tokens share, but you add the offset of the token's row to their "
            "addresses.",
            _weight_by_place,
        ),
        Mistake(
            "You compute the variance as the mean of x * x, minus mean * mean. Where the mean is large, both terms are huge, "
            "and their difference loses its digits: subtract the mean first, then square.",
            _wrong(of_squares=True),
        ),
    ),
    names={"[0]": "hidden", "[1]": "normed"},
)

ANSWERS = (FUSED_RESIDUAL_LAYER_NORM_ANSWER,)
