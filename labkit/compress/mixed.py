"""Mixed precision: how many bits each matrix gets, so that the damage is smallest for a given average.

A knapsack: each matrix takes one number of bits, the bits of all weights together have a limit, and the sum of the damages
(`sensitivity`) is to be smallest. It is solved exactly by dynamic programming, because the sizes of matrices have a large
common divisor. That damages add up is an assumption; it is good where each of them is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from labkit.compress.sensitivity import Damage, matrices_only
from labkit.errors import InvalidRequest

CHOICES = (2, 3, 4, 5, 6, 7, 8)
"""The numbers of bits that a matrix may get."""
FALL = 4.0
"""With one bit more, rounding errors are half as large and the damage, which is quadratic in them, a quarter."""


def expected_damage(damages: Iterable[Damage]) -> dict[str, dict[int, float]]:
    """The divergence of each matrix for each of `CHOICES`: as measured, or a quarter for each bit more than measured.

    A damage is never taken to be smaller with fewer bits.
    """
    found: dict[str, dict[int, float]] = {}
    for each in matrices_only(damages):
        found.setdefault(each.module, {})[each.bits] = each.divergence
    for of_bits in found.values():
        most = max(of_bits)
        for bits in CHOICES:
            if bits > most:
                of_bits[bits] = of_bits[most] / FALL ** (bits - most)
        for bits in sorted(of_bits, reverse=True)[1:]:
            of_bits[bits] = max(of_bits[bits], of_bits[min(more for more in of_bits if more > bits)])
    return found


def choose_bits(damages: Iterable[Damage], average: float) -> dict[str, int]:
    """The bits of each matrix with the smallest sum of damages, at most `average` bits per weight (without scales).

    Raises `InvalidRequest` for an average that is below the fewest bits that were measured.
    """
    damages = list(damages)
    expected = expected_damage(damages)
    sizes = {each.module: each.weights for each in matrices_only(damages)}
    unit = math.gcd(*sizes.values())
    limit = math.floor(average * sum(sizes.values()) / unit + 1e-6)
    # best[used]: the least sum of damages with this many units of bits, and the choice for each matrix
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for module, of_bits in expected.items():
        grown: dict[int, tuple[float, tuple[int, ...]]] = {}
        for used, (damage, chosen) in best.items():
            for bits, more in of_bits.items():
                total, after = used + bits * sizes[module] // unit, damage + more
                if total <= limit and (total not in grown or after < grown[total][0]):
                    grown[total] = after, (*chosen, bits)
        best = grown
    if not best:
        least = min(each.bits for each in damages)
        raise InvalidRequest(
            f"{average:g} bits per weight are too few; with their scales, the weights need {least} bits and more"
        )
    return dict(zip(expected, min(best.values())[1], strict=True))
