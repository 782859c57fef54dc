"""The memory that one rank needs: weights, KV cache, activations and workspace."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from labkit.errors import InvalidRequest
from labkit.planning.deployment import Deployment

USABLE = 0.95
"""The share of a device's memory that can be filled. Allocators round sizes up and leave gaps."""
WHOLE_ACTIVATIONS, SPLIT_ACTIVATIONS = 6, 24
"""How many vectors of the hidden size exist at the same time for one prefill token.

The first number counts vectors that each rank holds completely. The second number counts vectors of attention and MLP, which
tensor parallelism splits. FasterTransformer allocates all its buffers at once.
"""


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest rank (the rank that needs the most memory).

    `workspace` holds the driver's and the libraries' memory, and the logits.
    """

    weights: float
    cache: float
    activations: float
    workspace: float

    @property
    def total(self) -> float:
        """The sum of all four fields."""
        return self.weights + self.cache + self.activations + self.workspace

    def to_dict(self) -> dict[str, float]:
        """The fields and the total as plain values."""
        return asdict(self) | {"total": self.total}


def weight_bytes(plan: Deployment) -> float:
    """Bytes of the weights on the fullest rank (the rank that needs the most memory).

    A stage holds its layers. The first stage also holds the embedding, and the last stage also holds the head. If the head is
    tied to the embedding but is in another stage, that stage needs a copy of the embedding. Vectors and tables are stored in
    the dtype of the activations.
    """
    shape, split = plan.shape, plan.tensor_parallel
    layers = shape.num_layers / plan.pipeline_parallel
    vectors = shape.layer_parameters - shape.layer_matrix_parameters
    stage = layers * (shape.layer_matrix_parameters * plan.matrix_bytes / split + vectors * plan.element_bytes)
    embedding = shape.embedding_parameters * plan.element_bytes / split
    matrix = shape.vocab_size * shape.hidden_size * plan.head_bytes / split
    if plan.pipeline_parallel > 1:
        return stage + max(embedding, matrix)
    return stage + embedding + (0 if shape.tied else matrix)


def cache_bytes(plan: Deployment, tokens: int | None = None) -> float:
    """Bytes of the KV cache on one rank, for `tokens` tokens. By default, all sequences of the batch have their full length."""
    count = plan.batch * (plan.input_tokens + plan.output_tokens) if tokens is None else tokens
    return count * plan.shape.cache_elements_per_token() * plan.cache_bytes / plan.ranks


def activation_bytes(plan: Deployment) -> float:
    """Bytes of the activations of the largest micro-batch of the prefill."""
    numbers = (WHOLE_ACTIVATIONS + SPLIT_ACTIVATIONS / plan.tensor_parallel) * plan.shape.hidden_size
    return plan.prefill_batch * plan.input_tokens * numbers * plan.element_bytes


def memory_of(plan: Deployment, weights: float | None = None) -> Memory:
    """The memory of the fullest rank. `weights`: the result of `weight_bytes`, if known; it does not depend on the batch."""
    logits = plan.decode_batch * plan.shape.vocab_size * 2 * 4.0
    return Memory(
        weight_bytes(plan) if weights is None else weights,
        cache_bytes(plan),
        activation_bytes(plan),
        plan.device.runtime_bytes + logits,
    )


def usable_bytes(plan: Deployment) -> float:
    """The bytes of memory that one rank can fill. Ranks on a shared device divide its memory."""
    return USABLE * plan.device.memory_bytes / (plan.ranks if plan.device.shared else 1)


def fits(plan: Deployment) -> bool:
    """Whether the plan fits into the memory of the fullest rank."""
    return memory_of(plan).total <= usable_bytes(plan)


def largest_batch(plan: Deployment) -> int:
    """The largest batch that fits, with everything else as in `plan`; 0 if not even one sequence fits."""
    from dataclasses import replace

    low, high = 0, 1
    while fits(replace(plan, batch=high)) and high < 2**24:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(replace(plan, batch=middle)) else (low, middle)
    return low


def gib(size: float) -> float:
    """Convert bytes to GiB. Raises `InvalidRequest` if the size is not finite."""
    if not math.isfinite(size):
        raise InvalidRequest(f"a size of {size} bytes is not finite")
    return size / 2**30
