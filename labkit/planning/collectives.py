"""Formulas for the bytes that ranks send and for the time that a pipeline waits.

Predictions, exercises and benchmarks all use these formulas. They do not depend on a model or a device.
"""

from __future__ import annotations

from labkit.errors import InvalidRequest
from labkit.plurals import counted


def ring_bytes(size: float, ranks: int) -> float:
    """Bytes that a rank sends when `ranks` ranks sum `size` bytes in a ring: a reduce-scatter, then an all-gather."""
    return 2 * (ranks - 1) / ranks * size


def ring_hops(ranks: int) -> int:
    """The number of consecutive messages in a ring: `ranks` - 1 to add up, and `ranks` - 1 to distribute the sums."""
    return 2 * (ranks - 1)


def ring_seconds(size: float, ranks: int, *, bytes_per_second: float, hop_seconds: float) -> float:
    """The seconds that an all-reduce of `size` bytes takes in a ring: the latency of the hops plus the time to send the bytes.

    Each message starts after the previous message has arrived. So the hops take most of the time of a small sum, and the bytes
    take most of the time of a large sum (Thakur, Rabenseifner and Gropp 2005). The result is 0 for one rank.
    """
    return ring_hops(ranks) * hop_seconds + ring_bytes(size, ranks) / bytes_per_second


def bubble(stages: int, pieces: int) -> float:
    """The fraction of the time that a stage is idle, if `pieces` equal micro-batches pass through `stages` equal stages.

    With p stages and m micro-batches, the fraction is (p - 1) / (m + p - 1) (Huang et al. 2019, GPipe). Raises `InvalidRequest`
    if `stages` or `pieces` is below 1.
    """
    if stages < 1 or pieces < 1:
        raise InvalidRequest(
            f"bubble got {counted(stages, 'stage')} and {counted(pieces, 'piece')}; at least one of each is accepted"
        )
    return (stages - 1) / (pieces + stages - 1)
