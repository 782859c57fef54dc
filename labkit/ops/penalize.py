"""Penalties that make tokens less likely and bans that make them impossible, applied to the logits before sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.ops.registry import operation
from labkit.ops.token_marks import BANNED, GENERATED, IN_PROMPT, STOP


def penalize_reference(
    logits: Tensor,
    marks: Tensor,
    rows: Tensor,
    repetition_penalty: Tensor,
    presence_penalty: Tensor,
    may_stop: Tensor,
) -> Tensor:
    """The reference implementation of `penalize` in PyTorch."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    mine = marks[rows]
    factor = repetition_penalty[:, None].to(wide.dtype)
    penalized = torch.where(wide > 0, wide / factor, wide * factor)
    wide = torch.where((mine & (IN_PROMPT | GENERATED)) != 0, penalized, wide)
    wide = torch.where((mine & GENERATED) != 0, wide - presence_penalty[:, None].to(wide.dtype), wide)
    banned = (mine & torch.where(may_stop, BANNED, BANNED | STOP).to(mine.dtype)[:, None]) != 0
    return wide.masked_fill(banned, -math.inf)


@operation()
def penalize(
    logits: Tensor,
    marks: Tensor,
    rows: Tensor,
    repetition_penalty: Tensor,
    presence_penalty: Tensor,
    may_stop: Tensor,
) -> Tensor:
    """Return the logits after the penalties, with minus infinity for tokens that must not be chosen.

    `logits` is `[n, vocab_size]`. `marks` `[any, vocab_size]` uint8 holds sums of `IN_PROMPT`, `GENERATED`, `STOP` and
    `BANNED`; other bits are ignored. Row i of the logits uses row `rows[i]` of the marks (`rows` `[n]` int64).

    The logit of each token of the prompt or the continuation is divided by `repetition_penalty` if the logit is positive, and
    otherwise multiplied by `repetition_penalty` (Keskar et al. 2019). Then `presence_penalty` is subtracted from the logits of
    generated tokens. Both penalties are `[n]`, any float dtype. Banned tokens get minus infinity. Stop tokens get minus
    infinity in rows where `may_stop` (`[n]` bool) is false. Returns a new tensor `[n, vocab_size]` in float32, or in float64
    for float64 logits.
    """
    return penalize_reference(logits, marks, rows, repetition_penalty, presence_penalty, may_stop)
