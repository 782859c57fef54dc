"""Sampling: temperature, top-k, top-p, and a random draw that depends only on the row's own seed and counters."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.native import operations
from labkit.ops.registry import operation
from labkit.ops.uniform import uniform


def sample_reference(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    samples: Tensor,
    positions: Tensor,
) -> Tensor:
    """The reference implementation of `sample` in PyTorch; probabilities and their sums are float64."""
    scaled = logits.double() / torch.where(temperature > 0, temperature, 1.0)[:, None]
    weights = torch.exp(scaled - scaled.amax(-1, keepdim=True))
    points = uniform(seeds, samples, positions)
    ids = logits.sort(dim=-1, descending=True, stable=True).indices  # among equal logits the lower token id comes first
    kept = _keep(weights.gather(1, ids), top_k, top_p)
    drawn = _draw(torch.zeros_like(weights).scatter_(1, ids, kept), points)  # weights in the order of the vocabulary
    return torch.where(temperature > 0, drawn, logits.argmax(dim=-1))


def _keep(ordered: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Set the weights that top-k excludes to zero, then the weights that top-p excludes. The weights are in descending order.

    Top-p keeps the smallest set of weights whose share of the remaining weight reaches p.
    """
    rank = torch.arange(ordered.shape[1], dtype=torch.int64, device=ordered.device)
    ordered = ordered.masked_fill((rank >= top_k[:, None]) & (top_k > 0)[:, None], 0.0)
    sums = ordered.cumsum(dim=-1)
    reached = (sums - ordered >= (top_p * sums[:, -1])[:, None]) & (top_p < 1)[:, None]
    return ordered.masked_fill(reached & (rank > 0), 0.0)


def _draw(weights: Tensor, points: Tensor) -> Tensor:
    """For each row, the column at which the running sum passes the fraction `points` of the row's total: `[rows]` int64."""
    sums = weights.cumsum(dim=-1)
    whole = sums[:, -1:].contiguous()
    chosen = torch.searchsorted(sums, points[:, None] * whole, right=True)
    # Rounding can make `points * whole` equal to `whole`. Then no running sum passes this value, so take the last token with a
    # weight above 0.
    return torch.minimum(chosen, torch.searchsorted(sums, whole)).clamp_max_(weights.shape[1] - 1).squeeze(1)


@operation(native=operations.sample)
def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    samples: Tensor,
    positions: Tensor,
) -> Tensor:
    """Choose one token per row: `[rows]` int64.

    `logits` `[rows, vocab_size]` is not changed. `temperature` is `[rows]` float64: if it is 0, the token with the highest
    logit is chosen (the first of equal logits); any other value divides the logits. `top_k` `[rows]` int64 keeps the k highest
    logits (0 keeps all; among equal logits the lower token id is kept). `top_p` `[rows]` float64 then keeps the smallest set of
    tokens whose share of the remaining probability reaches p, at least one token. Then the kept probabilities are added up in
    the order of the vocabulary. The first token at which this sum passes the fraction `uniform(seeds, samples, positions)` of
    the total is chosen. `seeds`, `samples` and `positions` are `[rows]` int64.
    """
    return sample_reference(logits, temperature, top_k, top_p, seeds, samples, positions)
