"""From logits to tokens: temperature, top-k, top-p, and a draw that depends on the row's own counters alone."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.backend import on_triton
from labkit.ops.registry import operation
from labkit.ops.uniform import uniform

NARROW = 1024
"""Up to so many kept tokens a row, the likeliest are selected; for more, the vocabulary is sorted."""


def sample_reference(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    samples: Tensor,
    positions: Tensor,
    *,
    widest: int = 0,
    nucleus: bool = True,
) -> Tensor:
    """The specification of `sample`, in torch; probabilities and their sums in float64."""
    scaled = logits.double() / torch.where(temperature > 0, temperature, 1.0)[:, None]
    weights = torch.exp(scaled - scaled.amax(-1, keepdim=True))
    points = uniform(seeds, samples, positions)
    if not (nucleus or widest):
        drawn = _draw(weights, points)
    elif (ids := _few(logits, weights, top_k, top_p, widest)) is not None:
        kept = _keep(weights.gather(1, ids), weights.sum(-1), top_k, top_p)
        ids, order = ids.sort(dim=-1)  # the sums run in the order of the vocabulary, whichever way was taken
        drawn = ids.gather(1, _draw(kept.gather(1, order), points)[:, None]).squeeze(1)
    else:
        ids = logits.sort(dim=-1, descending=True, stable=True).indices
        kept = _keep(weights.gather(1, ids), weights.sum(-1), top_k, top_p)
        drawn = _draw(torch.zeros_like(weights).scatter_(1, ids, kept), points)
    return torch.where(temperature > 0, drawn, logits.argmax(dim=-1))


def _few(logits: Tensor, weights: Tensor, top_k: Tensor, top_p: Tensor, widest: int) -> Tensor | None:
    """The likeliest tokens of each row, highest first, if a few of them are sure to hold all that is kept; else None."""
    vocab_size = logits.shape[1]
    if 0 < widest <= NARROW:
        return likeliest(logits, min(widest, vocab_size))
    if logits.device.type != "cpu" or vocab_size <= NARROW:  # a look at the sums would make a GPU wait
        return None
    ids = likeliest(logits, NARROW)
    reached = weights.gather(1, ids).sum(-1) >= top_p * weights.sum(-1)
    enough = ((top_p < 1) & reached) | ((top_k > 0) & (top_k <= NARROW))
    return ids if bool(enough.all()) else None


def likeliest(logits: Tensor, count: int) -> Tensor:
    """The `count` highest of each row, highest first and of equals the lower token: `[rows, count]` int64.

    `torch.topk` leaves open which of two equal values it takes, and in 16 bits many logits are equal. So it is given
    numbers that differ: the bits of the float32, in an order like the float's, above the reversed token.
    """
    if logits.dtype == torch.float64:
        return logits.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    bits = (logits.float() + 0.0).view(torch.int32)  # the sum turns -0.0 into 0.0, which is its equal
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    last = logits.shape[1] - 1
    keys = (ordered << 32) | (last - torch.arange(last + 1, device=logits.device))
    return last - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)


def _keep(ordered: Tensor, whole: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Of weights in falling order, zero all but the top-k, then all but the fewest whose share of the rest is top-p.

    `whole` `[rows]` is the sum of all weights, of which the smallest may be missing in `ordered`.
    """
    rank = torch.arange(ordered.shape[1], device=ordered.device)
    ordered = ordered.masked_fill((rank >= top_k[:, None]) & (top_k > 0)[:, None], 0.0)
    sums = ordered.cumsum(dim=-1)
    rest = torch.where(top_k > 0, sums[:, -1], whole)
    reached = (sums - ordered >= (top_p * rest)[:, None]) & (top_p < 1)[:, None]
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
    *,
    widest: int = 0,
    nucleus: bool = True,
) -> Tensor:
    """One token a row: `[rows]` int64.

    `logits` `[rows, vocab_size]`, left unchanged. `temperature` `[rows]` float64: 0 takes the highest logit (of equals
    the first), otherwise logits are divided by it. `top_k` `[rows]` int64 keeps the k highest (0: all; of equals the
    lower token); `top_p` `[rows]` float64 keeps, of those, the fewest whose share of the probability reaches p, and at
    least one. The token is where the running sum of the kept probabilities, in the order of the vocabulary, passes
    `uniform(seeds, samples, positions)` (each `[rows]` int64) of the whole.

    What the caller knows of all rows saves work: `widest` is the largest top-k when every row has one (0 when one keeps
    all), `nucleus` false when no row has a top-p below 1. The tokens do not depend on either.
    """
    if on_triton(logits):
        from labkit.ops.kernels.sample import sample_triton

        return sample_triton(logits, temperature, top_k, top_p, seeds, samples, positions)
    return sample_reference(logits, temperature, top_k, top_p, seeds, samples, positions, widest=widest, nucleus=nucleus)
