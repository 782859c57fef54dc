"""Exercise 5.9: rounding through which gradients pass, because training needs gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws, away_from_ties


def upstream(weight: Tensor) -> Tensor:
    """The gradient of the output in a check, in place of a gradient from later layers. Its numbers differ, and none is 0."""
    return torch.linspace(0.5, 2.0, weight.numel(), dtype=torch.float32, device="cpu").view(weight.shape)


def _values_and_gradient(case: Case, value: Any) -> Any:
    """Return the values of an answer and the gradient of the weight, or zeros if the answer gives the weight no gradient."""
    weight = case.args[0]
    if not isinstance(value, Tensor) or value.shape != weight.shape or not value.is_floating_point():
        return {"values": value, "gradient": torch.zeros_like(weight)}
    gradient = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value, weight, upstream(weight).to(value.dtype), allow_unused=True)
    return {"values": value.detach(), "gradient": torch.zeros_like(weight) if gradient is None else gradient.detach()}


def _case(label: str, weight: Tensor, scales: Tensor, bits: int) -> Case:
    """A case in which no number is close to a tie, and all numbers give the same result if they are clipped before or after
    rounding.
    """
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    weight = away_from_ties(weight, scales)
    place = weight / scales
    weight = torch.where((place > highest - 0.05) & (place < highest + 0.6), scales * (highest + 0.8), weight)
    weight = torch.where((place < lowest + 0.05) & (place > lowest - 0.6), scales * (lowest - 0.8), weight)
    return Case(f"{label}, {list(weight.shape)}, {bits} bits", (weight.clone().requires_grad_(), scales, bits))


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    for label, weight, bits in (
        ("a weight of gptj-tiny", draws.real_weight(6, 50), 4),
        ("random", draws.normal(draws.pick.randrange(2, 6), 17), 3),
        ("one outlier", draws.one_outlier(3, 20), 2),
        ("negative numbers", draws.negative(4, 9), 4),
        ("all numbers 0", draws.constant(2, 5) * 0, 8),
    ):
        scales = weight.abs().amax(1, keepdim=True) / 2 ** (bits - 1) * 0.7  # the largest numbers are clipped
        cases.append(_case(label, weight, scales.masked_fill(scales == 0, 1.0), bits))
    return cases


FAKE_QUANTIZE = Exercise(
    name="lab05.fake_quantize",
    lab="05",
    number="5.9",
    title="A gradient through rounding",
    function="fake_quantize",
    statement=(
        "Return `weight` `[out, in]` as it will be after quantization: $s \\cdot \\text{clamp}(\\text{round}(w / s))$ with "
        "`scales` `[out, 1]` and integers from $-2^{bits-1}$ to $2^{bits-1}-1$. The **gradient** passes as if the rounding "
        "were not there (straight-through). Where the number is clipped, the gradient is 0. The check calls `backward`."
    ),
    points=10,
    minutes=7,
    difficulty=3,
    core=True,
    cases=_cases,
    hints=(
        "The gradient of round is 0. Which sum has the value of round(x), but the gradient of x?",
        "Add to x the difference that rounding makes, without its gradient (`detach`): the sum has the value of the rounded x, and "
        "the gradient of x. clamp already has the gradient 0 where it clips.",
        "x = (weight / scales).clamp(-2 ** (bits - 1), 2 ** (bits - 1) - 1); (x + (x.round() - x).detach()) * scales",
    ),
    observe=_values_and_gradient,
)
EXERCISES = (FAKE_QUANTIZE,)
