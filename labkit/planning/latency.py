"""Predicts the seconds of a prefill, a decode step and a whole request, split into parts such as reading and computing.

The time of a layer's matrix products follows a smoothed roofline (Williams, Waterman and Patterson 2009). The times for reading
the cache, moving activations, launches and all-reduces are added. If the `Efficiencies` hold arrays, all results are arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from labkit.planning.collectives import ring_bytes, ring_hops
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import Efficiencies

WHOLE_PASSES, SPLIT_PASSES = 0.35, 0.65
"""The shares of the activation passes outside and inside the parts of a layer that tensor parallelism splits."""


@dataclass(frozen=True)
class Parts:
    """Seconds spent on reading bytes, on FLOPs, on launches and gaps, on links, and idle in the pipeline's bubble."""

    read: float = 0.0
    flops: float = 0.0
    launches: float = 0.0
    link: float = 0.0
    bubble: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.read + self.flops + self.launches + self.link + self.bubble

    def __add__(self, other: Parts) -> Parts:
        return Parts(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    def times(self, count: float) -> Parts:
        """Multiply every part by `count`."""
        return Parts(*(getattr(self, part.name) * count for part in fields(self)))

    def in_a_pipeline(self, pieces: int, stages: int) -> Parts:
        """Turn the seconds of one micro-batch in one stage into the seconds of `pieces` micro-batches in `stages` equal stages.

        Each stage is idle for the time of `stages` - 1 micro-batches (Huang et al. 2019, GPipe).
        """
        busy = self.times(pieces)
        return Parts(busy.read, busy.flops, busy.launches, busy.link, busy.bubble + (stages - 1) * self.total)

    @property
    def dominated_by(self) -> str:
        """The name of the largest part: bytes, FLOPs, launches, link or bubble."""
        names = {"read": "bytes", "flops": "FLOPs", "launches": "launches", "link": "link", "bubble": "bubble"}
        return names[max(names, key=lambda name: float(getattr(self, name)))]

    def to_dict(self) -> dict[str, float]:
        """The parts as plain values, in seconds."""
        return {part.name: float(getattr(self, part.name)) for part in fields(self)}


@dataclass(frozen=True)
class Work:
    """The work of one forward pass.

    `tokens`: the number of rows of the matrix products. `cached`: the cached tokens that decoding sequences read. `pairs`: for
    how many pairs (token of a prompt, token to which it attends) attention is computed. `scores`: the scores per head that a
    prefill stores. `chosen`: the number of rows of logits.
    """

    tokens: float
    cached: float = 0.0
    pairs: float = 0.0
    scores: float = 0.0
    chosen: float = 0.0

    @classmethod
    def prefill(cls, batch: int, tokens: int) -> Work:
        """The work of the prefill of `batch` prompts."""
        return cls(batch * tokens, 0.0, batch * tokens * tokens / 2, batch * tokens * tokens, batch)

    @classmethod
    def decode(cls, batch: int, length: float) -> Work:
        """The work of a decode step of `batch` sequences, each with `length` cached tokens."""
        return cls(batch, batch * length, 0.0, 0.0, batch)


def _product(plan: Deployment, tokens: float, matrix: float, element_bytes: float, found: Efficiencies) -> Parts:
    """The seconds of matrix products according to the smoothed roofline. `matrix` is the number of weights per rank."""
    sparse = 2.0 if plan.sparse else 1.0
    reading = matrix * element_bytes / (_read_rate(plan) * found.read)
    computing = 2 * tokens * matrix / (_flop_rate(plan) * sparse * found.compute)
    seconds = (reading**found.overlap + computing**found.overlap) ** (1 / found.overlap)
    share = reading**found.overlap / (reading**found.overlap + computing**found.overlap)
    return Parts(read=seconds * share, flops=seconds * (1 - share))


def _read_rate(plan: Deployment) -> float:
    return plan.device.read_bytes_per_second / (plan.ranks if plan.device.shared else 1)


def _flop_rate(plan: Deployment) -> float:
    return plan.device.rate(plan.precision) / (plan.ranks if plan.device.shared else 1)


def layer_parts(plan: Deployment, work: Work, found: Efficiencies) -> Parts:
    """Seconds of one layer on one rank."""
    shape, split = plan.shape, plan.tensor_parallel
    hidden, rate = shape.hidden_size, _read_rate(plan) * found.read
    products = _product(plan, work.tokens, shape.layer_matrix_parameters / split, plan.matrix_bytes, found)
    cached = work.cached * 2 * hidden / split * plan.cache_bytes
    scores = found.score_passes * work.scores * shape.num_heads / split * plan.element_bytes
    passes = found.activation_passes * (WHOLE_PASSES + SPLIT_PASSES / split)
    moved = passes * work.tokens * hidden * plan.element_bytes
    attention = 4 * work.pairs * hidden / split / (_flop_rate(plan) * found.compute)
    sums = all_reduce_seconds(plan, work.tokens * hidden * plan.element_bytes, found) * shape.sums
    return products + Parts((cached + scores + moved) / rate, attention, found.layer_seconds, sums)


def stage_parts(plan: Deployment, work: Work, found: Efficiencies) -> Parts:
    """The seconds that the layers of one stage take, and the seconds to send the hidden states to the next stage."""
    layers = layer_parts(plan, work, found).times(plan.shape.num_layers / plan.pipeline_parallel)
    if plan.pipeline_parallel == 1:
        return layers
    return layers + Parts(link=send_seconds(plan, work.tokens * plan.shape.hidden_size * plan.element_bytes, found))


def choice_parts(plan: Deployment, rows: float, found: Efficiencies) -> Parts:
    """Seconds to compute the head and to choose `rows` tokens."""
    shape = plan.shape
    matrix = shape.vocab_size * shape.hidden_size / plan.tensor_parallel
    moving = found.logit_passes * rows * shape.vocab_size * 4.0 / _read_rate(plan)
    return _product(plan, rows, matrix, plan.head_bytes, found) + Parts(read=moving, launches=found.step_seconds)


def step_parts(plan: Deployment, work: Work, found: Efficiencies) -> Parts:
    """Seconds of one step. If there are several stages, each always works on a share of the sequences, so no stage is idle."""
    stages = plan.pipeline_parallel
    share = Work(*(value / stages for value in (work.tokens, work.cached, work.pairs, work.scores, work.chosen)))
    return stage_parts(plan, share, found).times(stages) + choice_parts(plan, work.chosen, found)


def nodes_of(plan: Deployment, ranks: int) -> int:
    """The number of nodes that `ranks` ranks occupy."""
    return max(1, math.ceil(ranks / plan.device.devices_per_node))


def all_reduce_seconds(plan: Deployment, size: float, found: Efficiencies) -> float:
    """Seconds of one all-reduce of `size` bytes among a stage's shards: the latency of the hops plus the sending time.

    Within a node, a ring has 2 (n - 1) hops. Between nodes, a tree has 2 log2(nodes) hops, and the bytes are divided among the
    network cards of a node.
    """
    ranks, device = plan.tensor_parallel, plan.device
    if ranks == 1 or device.link is None:
        return 0.0
    nodes = nodes_of(plan, ranks)
    hops = ring_hops(min(ranks, device.devices_per_node)) * device.link.hop_seconds
    rate = device.link.bytes_per_second
    if nodes > 1 and device.far_link is not None:
        hops += 2 * math.log2(nodes) * device.far_link.hop_seconds
        rate = min(rate, device.far_link.bytes_per_second)
    return found.collective_seconds + found.hops * hops + ring_bytes(size, ranks) / (rate * found.link)


def send_seconds(plan: Deployment, size: float, found: Efficiencies) -> float:
    """Seconds to send `size` bytes from one stage to the next. Each shard sends its part, then the parts are gathered."""
    device = plan.device
    far = plan.ranks > device.devices_per_node
    link = device.far_link if far and device.far_link is not None else device.link
    if link is None:
        return 0.0
    rate = link.bytes_per_second / (device.devices_per_node if far else 1)
    return found.hops * link.hop_seconds + size / plan.tensor_parallel / (rate * found.link)


def prefill_parts(plan: Deployment, found: Efficiencies) -> Parts:
    """Seconds until the first token of every sequence of the batch is chosen."""
    size = plan.prefill_batch
    stage = stage_parts(plan, Work.prefill(size, plan.input_tokens), found)
    layers = stage.in_a_pipeline(plan.batch // size, plan.pipeline_parallel)
    return layers + choice_parts(plan, plan.batch, found)


def decode_parts(plan: Deployment, found: Efficiencies, length: float | None = None) -> Parts:
    """Seconds of one decode step of the batch with `length` cached tokens.

    By default, `length` is the mean over the generation.
    """
    size = plan.decode_batch
    seen = plan.input_tokens + plan.output_tokens / 2 if length is None else length
    stage = stage_parts(plan, Work.decode(size, seen), found)
    layers = stage.in_a_pipeline(plan.batch // size, plan.pipeline_parallel)
    return layers + choice_parts(plan, plan.batch, found)


def request_parts(plan: Deployment, found: Efficiencies) -> Parts:
    """Seconds of a whole batch of requests: the prefill, which gives the first token, and one step for each further token."""
    steps = decode_parts(plan, found).times(plan.output_tokens - 1)
    return prefill_parts(plan, found) + steps + Parts(launches=found.request_seconds)
