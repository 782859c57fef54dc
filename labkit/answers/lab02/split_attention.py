"""The answer to exercise 2.6: reference, comparison and known mistakes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.kernel_guard import OutsideTensor
from labkit.exercises.lab02.split_attention import SPLIT_DECODE_ATTENTION
from labkit.ops.decode_attention import decode_attention_reference


def split_decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor, block: int
) -> Tensor:
    """The reference solution of exercise 2.6. The result does not depend on `block`."""
    return decode_attention_reference(query, keys, values, slot_table, lengths)


def _parts(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_table: Tensor,
    lengths: Tensor,
    block: int,
    *,
    scale: Any = math.sqrt,
    masked: float = -math.inf,
    slots: Any = lambda table: table,
    weighted: bool = True,
    normalised: bool = False,
    careful: bool = True,
    late: bool = False,
    over_all: bool = False,
) -> Tensor:
    """Compute decode attention in parts of `block` positions. Each option makes one of the known mistakes."""
    count = -(-slot_table.shape[1] // block)
    width = count * block
    table = torch.nn.functional.pad(slots(slot_table), (0, width - slot_table.shape[1])).long()
    seen = torch.arange(width, device=query.device) < lengths[:, None]
    key = torch.where(seen[:, :, None, None], keys[table], 0.0)
    value = torch.where(seen[:, :, None, None], values[table], 0.0)
    scores = torch.einsum("shd,slhd->shl", query, key) / scale(query.shape[-1])
    parts = scores.masked_fill(~seen[:, None], masked).view(*scores.shape[:2], count, block)
    padded = scores.masked_fill(~seen[:, None], 0.0).view_as(parts)
    top = padded.amax(-1) if late else parts.amax(-1)
    weights = torch.exp(parts - top[..., None])
    weights = torch.where(parts > -math.inf, weights, 0.0) if careful else weights
    total = weights.sum(-1)
    average = torch.einsum("shpb,spbhd->shpd", weights, value.view(len(value), count, block, *value.shape[2:]))
    if normalised:
        return torch.nan_to_num(average / total[..., None]).sum(2) / (total > 0).sum(-1, keepdim=True)
    share = torch.exp(top - top.amax((0, 1, 2) if over_all else -1, keepdim=True)) if weighted else torch.ones_like(top)
    return (share[..., None] * average).sum(2) / (share * total).sum(-1, keepdim=True)


def _wrong(**options: Any) -> Any:
    def faulty(*args: Any) -> Tensor:
        return _parts(*args, **options)

    return faulty


def _whole_table(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, block: int) -> Tensor:
    return decode_attention_reference(q, k, v, table, torch.full_like(lengths, table.shape[1]))


def _one_too_many(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, block: int) -> Tensor:
    """Wrong: the function also reads position `length`, because it tests `position <= length`."""
    width, flat = table.shape[1], table.flatten()
    rows = []
    for s, length in enumerate(lengths.tolist()):
        seen = min(length + 1, -(-width // block) * block)
        if s * width + seen > len(flat):
            raise OutsideTensor("a program reads a position past the end of the slot table")
        slots = flat[None, s * width : s * width + seen]
        rows.append(decode_attention_reference(q[s : s + 1], k, v, slots, torch.full_like(lengths[:1], seen)))
    return torch.cat(rows)


def _without_heads(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, block: int) -> Tensor:
    """Wrong: the key of a head is read from element `(slot + head) * head_dim` on."""
    flat = [pool.view(-1, 1, pool.shape[2]) for pool in (k, v)]
    heads = [
        decode_attention_reference(q[:, head : head + 1], flat[0], flat[1], table.clamp(0, len(k) - 1) + head, lengths)
        for head in range(q.shape[1])
    ]
    return torch.cat(heads, dim=1)


SPLIT_DECODE_ATTENTION_ANSWER = Answer(
    exercise=SPLIT_DECODE_ATTENTION,
    reference=split_decode_attention,
    comparison=Comparison(),
    mistakes=(
        Mistake("The scores are not multiplied by 1/sqrt(head_dim).", _wrong(scale=lambda head_dim: 1.0)),
        Mistake(
            "You scale by the padded size DIM, but you must take the square root of head_dim.",
            _wrong(scale=lambda head_dim: math.sqrt(1 << (head_dim - 1).bit_length())),
        ),
        Mistake(
            "You add the parts without weights, but the numbers of each part are relative to its own maximum in `tops`.",
            _wrong(weighted=False),
        ),
        Mistake(
            "You divide each part by its own sum and take the mean, but parts with larger scores must have more weight: divide "
            "once, after all parts are added up.",
            _wrong(normalised=True),
        ),
        Mistake(
            "You read slots 0, 1, 2, ..., but the row of slot_table says which slots hold the tokens of a sequence.",
            _wrong(slots=lambda table: torch.arange(table.shape[1], device=table.device).expand_as(table)),
        ),
        Mistake("You read beyond lengths[s], where the table holds slots of other sequences.", _whole_table),
        Mistake("A masked score must be -inf; if it is 0, it still gets a weight in the softmax.", _wrong(masked=0.0)),
        Mistake(
            "The maximum of an empty part is -inf, and exp(-inf - -inf) is NaN: the weights of an empty part must be 0.",
            _wrong(careful=False),
        ),
        Mistake(
            "Set the masked scores to -inf before you take the maximum. Otherwise a masked 0 is far above scores near -300, "
            "and all weights become 0.",
            _wrong(late=True),
        ),
        Mistake(
            "You read one position too many: the last position of a sequence is length - 1.",
            _one_too_many,
        ),
        Mistake(
            "You take one maximum of `tops` over several sequences or heads, but each head of each sequence needs its own "
            "maximum. Where the scores are hundreds lower, all weights are exp(-hundreds) = 0, and 0 / 0 is NaN.",
            _wrong(over_all=True),
        ),
        Mistake(
            "A slot holds the keys of all heads, but your addresses count slots as if each held only one head.",
            _without_heads,
        ),
    ),
)

ANSWERS = (SPLIT_DECODE_ATTENTION_ANSWER,)
