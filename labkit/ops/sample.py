"""From logits to tokens: temperature, top-k, top-p, and a draw that depends on the row's own counters alone."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.backend import on_native, on_triton
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
    """The specification of `sample`, in torch; probabilities and their sums in float64."""
    scaled = logits.double() / torch.where(temperature > 0, temperature, 1.0)[:, None]
    weights = torch.exp(scaled - scaled.amax(-1, keepdim=True))
    points = uniform(seeds, samples, positions)
    ids = logits.sort(dim=-1, descending=True, stable=True).indices  # of equals the lower token first
    kept = _keep(weights.gather(1, ids), top_k, top_p)
    drawn = _draw(torch.zeros_like(weights).scatter_(1, ids, kept), points)  # in the order of the vocabulary
    return torch.where(temperature > 0, drawn, logits.argmax(dim=-1))


def _keep(ordered: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Of weights in falling order, zero all but the top-k, then all but the fewest whose share of the rest is top-p."""
    rank = torch.arange(ordered.shape[1], dtype=torch.int64, device=ordered.device)
    ordered = ordered.masked_fill((rank >= top_k[:, None]) & (top_k > 0)[:, None], 0.0)
    sums = ordered.cumsum(dim=-1)
    reached = (sums - ordered >= (top_p * sums[:, -1])[:, None]) & (top_p < 1)[:, None]
    return ordered.masked_fill(reached & (rank > 0), 0.0)


def _draw(weights: Tensor, points: Tensor) -> Tensor:
    """Where the running sum of each row passes the share `points` of the whole: `[rows]` int64."""
    sums = weights.cumsum(dim=-1)
    whole = sums[:, -1:].contiguous()
    chosen = torch.searchsorted(sums, points[:, None] * whole, right=True)
    # share * whole can round up to the whole, behind which there is no token: then it is the last with a weight.
    return torch.minimum(chosen, torch.searchsorted(sums, whole)).clamp_max_(weights.shape[1] - 1).squeeze(1)


@operation
def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    samples: Tensor,
    positions: Tensor,
) -> Tensor:
    """One token a row: `[rows]` int64.

    `logits` `[rows, vocab_size]`, left unchanged. `temperature` `[rows]` float64: 0 takes the highest logit (of equals
    the first), otherwise logits are divided by it. `top_k` `[rows]` int64 keeps the k highest (0: all; of equals the
    lower token); `top_p` `[rows]` float64 keeps, of those, the fewest whose share of the probability reaches p, and at
    least one. The token is where the running sum of the kept probabilities, in the order of the vocabulary, passes
    `uniform(seeds, samples, positions)` (each `[rows]` int64) of the whole.
    """
    if on_triton(logits):
        from labkit.ops.kernels.sample import sample_triton

        return sample_triton(logits, temperature, top_k, top_p, seeds, samples, positions)
    if on_native(logits):
        from labkit.native import operations

        return operations.sample(logits, temperature, top_k, top_p, seeds, samples, positions)
    return sample_reference(logits, temperature, top_k, top_p, seeds, samples, positions)
