"""Inputs of the exercises: random tensors, tensors that are difficult to quantize, and real tensors of gptj-tiny."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from labkit.exercises.lab05 import tensors

TIE_MARGIN = 0.02
"""A number that is less than this many steps from a tie is moved, because two correct formulas could round it differently."""


class Draws:
    """Random inputs that depend only on `seed`. `pick` draws single numbers; the methods make float32 tensors on the CPU."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """A tensor of normally distributed numbers with the standard deviation `scale`."""
        return torch.randn(*shape, generator=self._generator, dtype=torch.float32, device="cpu") * scale

    def heavy_tailed(self, *shape: int) -> Tensor:
        """Normally distributed numbers. About one in a hundred of them is then made ten times as large."""
        is_large = torch.rand(*shape, generator=self._generator, dtype=torch.float32, device="cpu") < 0.01
        return self.normal(*shape) * (1 + 9 * is_large)

    def one_outlier(self, *shape: int) -> Tensor:
        """Normally distributed numbers; one of them is replaced by 40 or -40."""
        x = self.normal(*shape)
        x.view(-1)[self.pick.randrange(x.numel())] = self.pick.choice([-40.0, 40.0])
        return x

    def negative(self, *shape: int) -> Tensor:
        """A tensor of random numbers below 0."""
        return -self.normal(*shape).abs() - 0.01

    def constant(self, *shape: int) -> Tensor:
        """A tensor with the same random number (0.5 to 3) everywhere."""
        return torch.full(shape, self.pick.uniform(0.5, 3.0), dtype=torch.float32, device="cpu")

    def real_weight(self, rows: int, columns: int) -> Tensor:
        """`rows` × `columns` numbers from a random place in the weight of fc_in, in a random block of gptj-tiny."""
        weight = tensors.weight(f"transformer.h.{self.pick.randrange(8)}.mlp.fc_in.weight")
        row, column = self.pick.randrange(len(weight) - rows), self.pick.randrange(weight.shape[1] - columns + 1)
        return weight[row : row + rows, column : column + columns].clone()

    def real_inputs(self, tokens: int) -> Tensor:
        """The inputs of fc_out in the first block of gptj-tiny, for `tokens` tokens of a text: `[tokens, 1024]`."""
        inputs = tensors.first_inputs()["mlp.fc_out"]
        first = self.pick.randrange(len(inputs) - tokens)
        return inputs[first : first + tokens].clone()


def away_from_ties(numbers: Tensor, steps: Tensor) -> Tensor:
    """The same numbers, but each number close to the middle between two multiples of its step is moved away from the middle.

    `steps` holds the step of each number, or can be broadcast to these steps.
    """
    place = numbers / steps
    is_tie = (place - place.floor() - 0.5).abs() < TIE_MARGIN
    return torch.where(is_tie, (place.floor() + 0.3) * steps, numbers)
