"""Handles exceptions in a step: decides whether one request can have caused them, and makes the event that reports them."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit import ops
from labkit.engine.outputs import NO_TOKEN, TokenEvent
from labkit.engine.schedule.sequence import Sequence
from labkit.errors import LabkitError, RankFailed, RequestFailed


def may_be_of_one(error: BaseException) -> bool:
    """Whether an exception in a step might be the fault of one request.

    False for a `BaseException` such as Ctrl-C, and for a lost rank. Also False while an operation is swapped (`ops.use`), so
    that the author of the swapped function sees its exceptions.
    """
    return isinstance(error, Exception) and not isinstance(error, RankFailed) and not ops.swapped()


def failed(sequence: Sequence, error: BaseException) -> tuple[Sequence, TokenEvent]:
    """Make the event that ends the request of `sequence` with an error. Returns the sequence and the event."""
    cause = str(error) if isinstance(error, LabkitError) else f"{type(error).__name__}: {error}"
    reason = RequestFailed(f"request {sequence.request} failed in a step of the engine and was ended: {cause}")
    reason.__cause__ = error
    return sequence, TokenEvent(sequence.request, sequence.sample, NO_TOKEN, "", finish_reason="error", error=reason)


def check_numbers(logits: Tensor) -> None:
    """Raise `LabkitError` unless the largest number in each row of `logits` `[rows, vocab_size]` is finite.

    This check is made for the first new token, because its logits show whether the weights, a soft prompt or a prefix prompt
    are unusable.
    """
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise LabkitError(
            "the logits after the prompt are not finite, so no token can be chosen: the weights, the soft_prompt or the "
            "prefix_prompt hold NaN, or numbers that are too large for the model's precision; check them"
        )
