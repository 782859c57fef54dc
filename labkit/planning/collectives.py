"""What ranks send, and how long a pipeline waits: the formulas that predictions, exercises and benchmarks share.

Plain numbers; nothing here knows a model or a device.
"""

from __future__ import annotations

from labkit.errors import InvalidRequest
from labkit.plurals import counted


def ring_bytes(size: float, ranks: int) -> float:
    """Bytes that a rank sends when `ranks` ranks sum `size` bytes in a ring: a reduce-scatter, then an all-gather."""
    return 2 * (ranks - 1) / ranks * size


def ring_hops(ranks: int) -> int:
    """The number of messages that follow one another in a ring: `ranks` - 1 to add up, and as many to hand out the sums."""
    return 2 * (ranks - 1)


def ring_seconds(size: float, ranks: int, *, bytes_per_second: float, hop_seconds: float) -> float:
    """Seconds of an all-reduce of `size` bytes in a ring: the latency of its hops, then the time of its bytes.

    Each message starts after the one before has arrived, so small sums cost hops and large sums cost bytes (Thakur,
    Rabenseifner and Gropp 2005). 0 for one rank.
    """
    return ring_hops(ranks) * hop_seconds + ring_bytes(size, ranks) / bytes_per_second


def bubble(stages: int, pieces: int) -> float:
    """The fraction of the time that a stage is idle when `pieces` equal micro-batches pass through `stages` equal stages.

    With p stages and m micro-batches, the fraction is (p - 1) / (m + p - 1) (Huang et al. 2019, GPipe). Raises `InvalidRequest`
    if `stages` or `pieces` is below 1.
    """
    if stages < 1 or pieces < 1:
        raise InvalidRequest(
            f"bubble got {counted(stages, 'stage')} and {counted(pieces, 'piece')}; at least one of each is accepted"
        )
    return (stages - 1) / (pieces + stages - 1)
