"""Lengths of prompts and answers in tokens, drawn from a distribution with bounds."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from labkit.errors import InvalidRequest

SHAPES = ("lognormal", "uniform")


@dataclass(frozen=True)
class Lengths:
    """A distribution of whole numbers from `low` to `high`, both included.

    shape: "uniform", where all numbers are equally likely, or "lognormal", which resembles the lengths of real texts. For
    "lognormal", the median is the geometric mean of the bounds, and the bounds are two standard deviations (of the logarithm)
    from the median; numbers outside the bounds are drawn again. Raises `InvalidRequest` for impossible bounds or an unknown
    shape.
    """

    low: int
    high: int
    shape: str = "lognormal"

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise InvalidRequest(f"lengths from {self.low} to {self.high} are not possible; 1 <= lowest <= highest is needed")
        if self.shape not in SHAPES:
            raise InvalidRequest(f"the shape of lengths is {self.shape!r}; {' or '.join(SHAPES)} is accepted")

    @classmethod
    def parse(cls, text: str, shape: str = "lognormal") -> Lengths:
        """Read a text such as `16` or `8-64`. Raises `InvalidRequest`."""
        low, _, high = text.partition("-")
        try:
            return cls(int(low), int(high or low), shape)
        except ValueError as error:
            if isinstance(error, InvalidRequest):
                raise
            raise InvalidRequest(f"lengths are {text!r}; one or two whole numbers are accepted, like 16 or 8-64") from None

    def draw(self, source: random.Random) -> int:
        """Draw one number."""
        if self.shape == "uniform" or self.low == self.high:
            return source.randint(self.low, self.high)
        middle, sigma = math.sqrt(self.low * self.high), math.log(self.high / self.low) / 4
        while True:
            if self.low <= (drawn := round(source.lognormvariate(math.log(middle), sigma))) <= self.high:
                return drawn
