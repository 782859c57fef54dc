"""The answer to exercise 5.9: reference, comparison and known mistakes."""

from __future__ import annotations

from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab05.training import FAKE_QUANTIZE


def fake_quantize(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The reference solution of exercise 5.9."""
    x = (weight / scales).clamp(*_ends(bits))
    return (x + (x.round() - x).detach()) * scales


def _ends(bits: int) -> tuple[int, int]:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _rounded(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    return (weight / scales).round().clamp(*_ends(bits)) * scales


def _passes_everywhere(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    return weight + (_rounded(weight, scales, bits) - weight).detach()


def _no_clip(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    x = weight / scales
    return (x + (x.round() - x).detach()) * scales


def _integers(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    x = (weight / scales).clamp(*_ends(bits))
    return x + (x.round() - x).detach()


def _wrong_part_detached(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    x = (weight / scales).clamp(*_ends(bits))
    return (x.detach() + (x.round() - x)) * scales


def _as_if_not_rounded(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    return (weight / scales).clamp(*_ends(bits)) * scales


def _narrow(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    x = (weight / scales).clamp(-_ends(bits)[1], _ends(bits)[1])
    return (x + (x.round() - x).detach()) * scales


FAKE_QUANTIZE_ANSWER = Answer(
    exercise=FAKE_QUANTIZE,
    reference=fake_quantize,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The values are right, but no gradient passes: the gradient of round is 0. Add round(x) - x to x, detached.",
            _rounded,
        ),
        Mistake(
            "The values are right, but a clipped number also gets a gradient; it cannot change the result, so its "
            "gradient is 0.",
            _passes_everywhere,
        ),
        Mistake("Clip the numbers to the lowest and highest integer of this many bits; with 4 bits: -8 and 7.", _no_clip),
        Mistake("You return integers; multiply by the scales again.", _integers),
        Mistake("You detached the wrong part: detach the difference between round(x) and x, not x.", _wrong_part_detached),
        Mistake("Nothing is rounded: the values must be those after quantization.", _as_if_not_rounded),
        Mistake("The lowest integer is -8 for 4 bits; you clip one integer too early.", _narrow),
    ),
    names={"['values']": "the result", "['gradient']": "the gradient of weight"},
)
ANSWERS = (FAKE_QUANTIZE_ANSWER,)
