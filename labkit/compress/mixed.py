"""Mixed precision: chooses the bits of each matrix so that the damage is smallest for a given average number of bits.

This is a knapsack problem: each matrix gets one number of bits, the total number of bits is limited, and the sum of the damages
(`sensitivity`) should be as small as possible. Dynamic programming finds the exact solution quickly, because the sizes of the
matrices have a large common divisor. The sum assumes that damages add up, which is a good approximation if each damage is
small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from labkit.compress.sensitivity import Damage, matrices_only
from labkit.errors import InvalidRequest

CHOICES = (2, 3, 4, 5, 6, 7, 8)
"""The numbers of bits that a matrix can get."""
FALL = 4.0
"""One more bit halves the rounding errors. The damage is quadratic in the errors, so it becomes a quarter."""


def expected_damage(damages: Iterable[Damage]) -> dict[str, dict[int, float]]:
    """The divergence of each matrix for each number of bits in `CHOICES`.

    Each bit above the largest measured number of bits divides the divergence by four. If a measured damage is smaller with
    fewer bits, the larger value is used.
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
    """Choose the bits of each matrix so that the sum of damages is smallest, with at most `average` bits per weight.

    `average` does not include the scales. Raises `InvalidRequest` if it is below the smallest measured number of bits.
    """
    damages = list(damages)
    expected = expected_damage(damages)
    sizes = {each.module: each.weights for each in matrices_only(damages)}
    unit = math.gcd(*sizes.values())
    limit = math.floor(average * sum(sizes.values()) / unit + 1e-6)
    # best[used]: the smallest sum of damages with `used` units of bits, and the choice for each matrix
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
            f"{average:g} bits per weight are too few; the weights need at least {least} bits, plus their scales"
        )
    return dict(zip(expected, min(best.values())[1], strict=True))
