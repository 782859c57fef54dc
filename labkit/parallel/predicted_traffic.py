"""Predicts the costs of parallelism: bytes between ranks, the bubble of a pipeline, memory per rank, time per token.

All numbers are for one rank and one token that goes through the model, for GPT-J as this engine and FasterTransformer compute
it.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.parallel.layout import Layout
from labkit.plurals import counted

HIDDEN_BYTES = 4
"""The bytes of one number in a hidden state. Ranks on the CPU send float32; ranks on GPUs send the model's own dtype."""


def all_reduces(config: GPTJConfig, layout: Layout, stage: int = 0, *, a_layer: int = 1) -> int:
    """The number of all-reduces in one step on a rank of `stage`.

    Each layer has one all-reduce, because GPT-J's attention and MLP run in parallel and share one sum; `a_layer=2` is for
    models (and engines) with two sums per layer. The first stage needs one more all-reduce, after the embedding, since each
    shard holds only a share of the embedding.
    """
    if layout.tensor_parallel == 1:
        return 0
    part = layout.part(layout.rank(stage, 0))
    return a_layer * len(part.layers(config.num_layers)) + part.first


def all_reduce_bytes(config: GPTJConfig, layout: Layout, stage: int = 0, *, a_layer: int = 1) -> int:
    """Bytes per token that a rank of `stage` adds up with the other shards."""
    return all_reduces(config, layout, stage, a_layer=a_layer) * config.hidden_size * HIDDEN_BYTES


def ring_bytes(size: float, ranks: int) -> float:
    """Bytes that a rank sends when `ranks` ranks sum `size` bytes in a ring: a reduce-scatter, then an all-gather."""
    return 2 * (ranks - 1) / ranks * size


def stage_bytes(config: GPTJConfig, layout: Layout) -> int:
    """Bytes per token that a rank sends to the next stage; 0 if there is only one stage."""
    return config.hidden_size * HIDDEN_BYTES if layout.pipeline_parallel > 1 else 0


def cache_bytes(config: GPTJConfig, layout: Layout, stage: int = 0, *, element_bytes: int = 2) -> int:
    """Bytes of the keys and values of one token on a rank of `stage`."""
    part = layout.part(layout.rank(stage, 0))
    return 2 * len(part.layers(config.num_layers)) * part.heads(config) * config.head_dim * element_bytes


def weight_bytes(config: GPTJConfig, layout: Layout, *, element_bytes: float = 2) -> float:
    """Bytes of the weights on one rank, if they are divided evenly."""
    return config.parameter_count * element_bytes / layout.ranks


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


@dataclass(frozen=True)
class Interconnect:
    """The connection between GPUs.

    `bytes_per_second`: how many bytes one GPU sends per second. `latency`: seconds until the first byte of a collective
    arrives.
    """

    name: str
    bytes_per_second: float
    latency: float


NVLINK = Interconnect("NVLink of an H100", 450e9, 9e-6)
"""450 GB/s in each direction, from NVIDIA's data sheet. The latency is assumed to be the latency of a small NCCL all-reduce."""

H100_READ = 3.0e12
"""Bytes per second that a copy reads from the memory of an H100 SXM. The data sheet of this GPU says 3.35e12."""


def decode_seconds(
    config: GPTJConfig,
    layout: Layout,
    *,
    read_bytes_per_second: float,
    link: Interconnect,
    batch: int = 1,
    element_bytes: float = 2,
) -> float:
    """Predicted seconds of a decode step of a full pipeline: the time to read a rank's weights once, plus the time of its
    collectives.

    The stages work on different sequences at the same time. So a step takes as long as the slowest stage, while one token takes
    the sum of the times of all stages.
    """
    reading = weight_bytes(config, layout, element_bytes=element_bytes) / read_bytes_per_second
    calls = all_reduces(config, layout)
    sent = ring_bytes(all_reduce_bytes(config, layout) * batch, layout.tensor_parallel)
    handing_on = stage_bytes(config, layout) * batch / link.bytes_per_second + (layout.pipeline_parallel > 1) * link.latency
    return reading + calls * link.latency + sent / link.bytes_per_second + handing_on


def predicted_scaling(
    config: GPTJConfig, *, read_bytes_per_second: float, link: Interconnect = NVLINK, gpus: tuple[int, ...] = (2, 4, 8)
) -> dict[int, float]:
    """For each number of GPUs, how many times faster tensor-parallel decode at batch 1 should be than on one GPU."""

    def seconds(count: int) -> float:
        return decode_seconds(config, Layout(count, 1), read_bytes_per_second=read_bytes_per_second, link=link)

    return {count: seconds(1) / seconds(count) for count in gpus}
