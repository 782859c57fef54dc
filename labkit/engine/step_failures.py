"""What a step does with an exception: whose it may be, and how its request learns of it."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit import ops
from labkit.engine.outputs import NO_TOKEN, TokenEvent
from labkit.engine.schedule.sequence import Sequence
from labkit.errors import LabkitError, RankFailed, RequestFailed


def may_be_of_one(error: BaseException) -> bool:
    """Whether an exception in a step may be the fault of one request.

    Not what is no `Exception` (Ctrl-C), not a rank that is gone, and not what a swapped operation (`ops.use`) raises: whoever
    swapped it wants to see that.
    """
    return isinstance(error, Exception) and not isinstance(error, RankFailed) and not ops.swapped()


def failed(sequence: Sequence, error: BaseException) -> tuple[Sequence, TokenEvent]:
    """The event that ends the request of a sequence."""
    cause = str(error) if isinstance(error, LabkitError) else f"{type(error).__name__}: {error}"
    reason = RequestFailed(f"request {sequence.request} failed in a step of the engine and was ended: {cause}")
    reason.__cause__ = error
    return sequence, TokenEvent(sequence.request, sequence.sample, NO_TOKEN, "", finish_reason="error", error=reason)


def check_numbers(logits: Tensor) -> None:
    """Raise `LabkitError` unless the largest of each row of `logits` `[rows, vocab_size]` is finite.

    For the first token of a prompt: what its weights or what stands before it make of it is seen there.
    """
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise LabkitError(
            "the logits after the prompt are no finite numbers, so no token can be chosen: the weights, the soft_prompt or the "
            "prefix_prompt hold numbers that the model cannot compute with in its precision"
        )
