"""How many tokens prompts and answers have: drawn from a distribution within bounds."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from labkit.errors import InvalidRequest

SHAPES = ("lognormal", "uniform")


@dataclass(frozen=True)
class Lengths:
    """Whole numbers from `low` to `high`, both included.

    shape: "uniform", each alike; or "lognormal", as lengths of real texts are: the median is the bounds' geometric mean,
    the bounds lie two standard deviations (of the logarithm) from it, and what falls outside is drawn anew. Raises
    `InvalidRequest` for bounds or a shape that cannot be.
    """

    low: int
    high: int
    shape: str = "lognormal"

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise InvalidRequest(f"lengths from {self.low} to {self.high}: 1 <= lowest <= highest is needed")
        if self.shape not in SHAPES:
            raise InvalidRequest(f"the shape of lengths is {self.shape!r}; {' or '.join(SHAPES)} is accepted")

    @classmethod
    def parse(cls, text: str, shape: str = "lognormal") -> Lengths:
        """From `16` or `8-64`. Raises `InvalidRequest`."""
        low, _, high = text.partition("-")
        try:
            return cls(int(low), int(high or low), shape)
        except ValueError as error:
            if isinstance(error, InvalidRequest):
                raise
            raise InvalidRequest(f"lengths are {text!r}; a whole number or two are accepted, 16 or 8-64 say") from None

    def draw(self, source: random.Random) -> int:
        """One of them."""
        if self.shape == "uniform" or self.low == self.high:
            return source.randint(self.low, self.high)
        middle, sigma = math.sqrt(self.low * self.high), math.log(self.high / self.low) / 4
        while True:
            if self.low <= (drawn := round(source.lognormvariate(math.log(middle), sigma))) <= self.high:
                return drawn
