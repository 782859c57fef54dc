"""What makes tokens less likely, or impossible, before one is drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.ops.backend import on_triton
from labkit.ops.marks import BANNED, IN_PROMPT, MADE, STOP
from labkit.ops.registry import operation


def penalize_reference(
    logits: Tensor,
    marks: Tensor,
    rows: Tensor,
    repetition_penalty: Tensor,
    presence_penalty: Tensor,
    may_stop: Tensor,
) -> Tensor:
    """The specification of `penalize`, in torch."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    mine = marks[rows]
    factor = repetition_penalty[:, None].to(wide.dtype)
    penalized = torch.where(wide > 0, wide / factor, wide * factor)
    wide = torch.where((mine & (IN_PROMPT | MADE)) != 0, penalized, wide)
    wide = torch.where((mine & MADE) != 0, wide - presence_penalty[:, None].to(wide.dtype), wide)
    banned = (mine & torch.where(may_stop, BANNED, BANNED | STOP).to(mine.dtype)[:, None]) != 0
    return wide.masked_fill(banned, -math.inf)


@operation
def penalize(
    logits: Tensor,
    marks: Tensor,
    rows: Tensor,
    repetition_penalty: Tensor,
    presence_penalty: Tensor,
    may_stop: Tensor,
) -> Tensor:
    """Logits with penalties subtracted and forbidden tokens at minus infinity.

    `logits` `[n, vocab_size]`; `marks` `[any, vocab_size]` uint8 holds sums of `IN_PROMPT`, `MADE`, `STOP` and `BANNED`
    (other bits are not read), of which logits row i reads row `rows[i]` (`rows` `[n]` int64). Logits of tokens in prompt
    or continuation are divided by `repetition_penalty` if positive and multiplied by it if not (Keskar et al. 2019), then
    `presence_penalty` is subtracted from those of tokens made (both `[n]`, any float dtype). Banned tokens, and stop
    tokens where `may_stop` `[n]` bool is false, get minus infinity. Returns a new `[n, vocab_size]`, float32 (float64 for
    float64).
    """
    if on_triton(logits):
        from labkit.ops.kernels.penalize import penalize_triton

        return penalize_triton(logits, marks, rows, repetition_penalty, presence_penalty, may_stop)
    return penalize_reference(logits, marks, rows, repetition_penalty, presence_penalty, may_stop)
