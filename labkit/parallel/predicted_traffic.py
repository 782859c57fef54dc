"""What parallelism costs, predicted: bytes between ranks, the bubble of a pipeline, memory of a rank, the time of a token.

Counted per rank and per token that goes through the model, for GPT-J as this engine and FasterTransformer compute it.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.parallel.layout import Layout

HIDDEN_BYTES = 4
"""Of a number of the hidden state, which ranks on the CPU send in float32; on GPUs it goes in the model's own dtype."""


def all_reduces(config: GPTJConfig, layout: Layout, stage: int = 0, *, a_layer: int = 1) -> int:
    """All-reduces of one step on a rank of `stage`.

    One a layer, since GPT-J's attention and MLP run beside each other and add up together; `a_layer=2` for models (and
    engines) that add up twice. Behind the embedding the first stage adds up once more, as each shard holds a share of it.
    """
    if layout.tensor_parallel == 1:
        return 0
    part = layout.part(layout.rank(stage, 0))
    return a_layer * len(part.layers(config.num_layers)) + part.first


def all_reduce_bytes(config: GPTJConfig, layout: Layout, stage: int = 0, *, a_layer: int = 1) -> int:
    """Bytes that a rank of `stage` adds up with its peers for each token."""
    return all_reduces(config, layout, stage, a_layer=a_layer) * config.hidden_size * HIDDEN_BYTES


def ring_bytes(size: float, ranks: int) -> float:
    """Bytes that a rank sends when `ranks` of them sum up `size` bytes around a ring: a reduce-scatter, an all-gather."""
    return 2 * (ranks - 1) / ranks * size


def stage_bytes(config: GPTJConfig, layout: Layout) -> int:
    """Bytes that a rank sends to the stage behind for each token; 0 where there is one stage."""
    return config.hidden_size * HIDDEN_BYTES if layout.pipeline_parallel > 1 else 0


def cache_bytes(config: GPTJConfig, layout: Layout, stage: int = 0, *, element_bytes: int = 2) -> int:
    """Bytes of keys and values of a token on a rank of `stage`."""
    part = layout.part(layout.rank(stage, 0))
    return 2 * len(part.layers(config.num_layers)) * part.heads(config) * config.head_dim * element_bytes


def weight_bytes(config: GPTJConfig, layout: Layout, *, element_bytes: float = 2) -> float:
    """Bytes of the weights of a rank, evenly shared out."""
    return config.parameter_count * element_bytes / layout.ranks


def bubble(stages: int, pieces: int) -> float:
    """The share of the time that a stage stands idle when `pieces` equal micro-batches go through `stages` equal stages.

    (p - 1) / (m + p - 1): Huang et al. 2019, GPipe. Raises `InvalidRequest` for fewer than one of either.
    """
    if stages < 1 or pieces < 1:
        raise InvalidRequest(f"{stages} stages and {pieces} pieces; at least one of each is accepted")
    return (stages - 1) / (pieces + stages - 1)


@dataclass(frozen=True)
class Interconnect:
    """What lies between GPUs: bytes a second that one sends, and seconds until the first byte of a collective is there."""

    name: str
    bytes_per_second: float
    latency: float


NVLINK = Interconnect("NVLink of an H100", 450e9, 9e-6)
"""450 GB/s each way (NVIDIA's data sheet: 900 GB/s both ways). The latency is assumed, that of a small NCCL all-reduce."""

H100_READ = 3.0e12
"""Bytes a second that the memory of an H100 SXM gives to a copy; its data sheet says 3.35e12."""


def decode_seconds(
    config: GPTJConfig,
    layout: Layout,
    *,
    read_bytes_per_second: float,
    link: Interconnect,
    batch: int = 1,
    element_bytes: float = 2,
) -> float:
    """Predicted seconds of a decode step of a full pipeline: a rank's weights read once, and its collectives.

    The stages work on different sequences at a time, so a token takes the sum of them and a step the longest.
    """
    reading = weight_bytes(config, layout, element_bytes=element_bytes) / read_bytes_per_second
    calls = all_reduces(config, layout)
    sent = ring_bytes(all_reduce_bytes(config, layout) * batch, layout.tensor_parallel)
    handing_on = stage_bytes(config, layout) * batch / link.bytes_per_second + (layout.pipeline_parallel > 1) * link.latency
    return reading + calls * link.latency + sent / link.bytes_per_second + handing_on


def predicted_scaling(
    config: GPTJConfig, *, read_bytes_per_second: float, link: Interconnect = NVLINK, gpus: tuple[int, ...] = (2, 4, 8)
) -> dict[int, float]:
    """How many times faster tensor parallel decode at batch 1 is predicted to be on so many GPUs than on one."""

    def seconds(count: int) -> float:
        return decode_seconds(config, Layout(count, 1), read_bytes_per_second=read_bytes_per_second, link=link)

    return {count: seconds(1) / seconds(count) for count in gpus}
