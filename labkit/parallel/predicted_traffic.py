"""Predicts the bytes that each rank of this engine sends and stores per token, and how decode scales on GPUs.

The counts are exact, even for stages of different sizes. Formulas for any engine are in `labkit.planning`.
"""

from __future__ import annotations

from dataclasses import replace

from labkit.config import GPTJConfig, cache_elements_per_token
from labkit.parallel.layout import Layout
from labkit.planning.catalogue import named_gpu
from labkit.planning.deployment import Deployment, does_not_divide
from labkit.planning.efficiencies import PERFECT, Efficiencies
from labkit.planning.latency import decode_parts
from labkit.planning.shape import Shape

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
    """The bytes per token that a rank of `stage` contributes to all-reduces."""
    return all_reduces(config, layout, stage, a_layer=a_layer) * config.hidden_size * HIDDEN_BYTES


def stage_bytes(config: GPTJConfig, layout: Layout) -> int:
    """Bytes per token that a rank sends to the next stage; 0 if there is only one stage."""
    return config.hidden_size * HIDDEN_BYTES if layout.pipeline_parallel > 1 else 0


def cache_bytes(config: GPTJConfig, layout: Layout, stage: int = 0, *, element_bytes: int = 2) -> int:
    """The bytes that the keys and values of one token take on a rank of `stage`."""
    part = layout.part(layout.rank(stage, 0))
    layers, heads = len(part.layers(config.num_layers)), part.heads(config)
    return cache_elements_per_token(layers, heads * config.head_dim) * element_bytes


GPU = "h100-80gb"
"""The GPU for which `predicted_scaling` computes the scaling."""
STEP_IN_A_GRAPH = replace(PERFECT, read=0.9, compute=0.65, overlap=Efficiencies.overlap, collective_seconds=9e-6)
"""The efficiencies of a decode step that runs without gaps, as one CUDA graph.

Two values are assumed, not fitted: 90 % of the memory bandwidth, and 9 microseconds for a small NCCL all-reduce, including the
latency of its hops.
"""


def predicted_scaling(config: GPTJConfig, *, gpus: tuple[int, ...] = (2, 4, 8)) -> dict[int, float]:
    """For each number of GPUs, the predicted speed of tensor-parallel decode at batch 1 in 16 bits, relative to one GPU.

    The seconds are computed by `labkit.planning.latency` with `STEP_IN_A_GRAPH` on `GPU`. A number of GPUs is left out if the
    model cannot be divided into that many parts.
    """
    shape, device = Shape.of_config(config), named_gpu(GPU)

    def seconds(count: int) -> float:
        plan = Deployment(shape, device, count, input_tokens=1, output_tokens=1)
        return decode_parts(plan, STEP_IN_A_GRAPH).total

    return {count: seconds(1) / seconds(count) for count in gpus if not does_not_divide(shape, count, 1)}
