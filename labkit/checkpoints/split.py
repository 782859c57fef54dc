"""Which numbers of ranks a GPT-J can be split over on disk; checked before anything is read or written."""

from __future__ import annotations

import math

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest


def check_tensor_parallel(config: GPTJConfig, size: int) -> None:
    """Raise `InvalidRequest`, with the nearest size that works, unless `size` divides the heads and the inner size."""
    heads, inner = config.num_heads, config.intermediate_size
    if size < 1 or heads % size or inner % size:
        raise InvalidRequest(
            f"tensor parallel size is {size}; it must divide the {heads} heads and the inner size {inner} "
            f"of this model; the nearest that does is {nearest_divisor(size, math.gcd(heads, inner))}"
        )


def check_pipeline_parallel(config: GPTJConfig, size: int) -> None:
    """Raise `InvalidRequest`, with the nearest size that works, unless `size` divides the layers."""
    if size < 1 or config.num_layers % size:
        raise InvalidRequest(
            f"pipeline parallel size is {size}; it must divide the {config.num_layers} layers of this model; "
            f"the nearest that does is {nearest_divisor(size, config.num_layers)}"
        )


def share(size: int, rank: int, ranks: int) -> slice:
    """A rank's stretch of `size` things, which `ranks` divides."""
    return slice(rank * size // ranks, (rank + 1) * size // ranks)


def nearest_divisor(size: int, total: int) -> int:
    """The divisor of `total` that is next to `size`, of two the smaller."""
    divisors = [divisor for divisor in range(1, total + 1) if total % divisor == 0]
    return min(divisors, key=lambda divisor: (abs(divisor - size), divisor))
