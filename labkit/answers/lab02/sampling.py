"""The answer to exercise 2.9: reference, comparison and known mistakes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab02.sampling import SAMPLE_TOKEN


def sample_token(logits: Tensor, temperature: float, top_k: int, top_p: float, share: float) -> int:
    """The reference solution of exercise 2.9."""
    return _sample(logits, temperature, top_k, top_p, share)


def _sample(
    logits: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    share: float,
    *,
    scale: Any = lambda logits, t: logits / t,
    crossing: bool = True,
    late: bool = False,
    share_of_rest: bool = True,
    renormalise: bool = True,
    in_order: bool = True,
    passes: bool = True,
) -> int:
    """Sample a token. By default the result is right; each option makes one of the known mistakes."""
    logits = logits.double()
    probabilities = torch.softmax(scale(logits, temperature), 0)
    ordered, ids = (torch.softmax(logits, 0) if late else probabilities).sort(descending=True, stable=True)
    if top_k:
        ordered = torch.where(torch.arange(len(ordered)) < top_k, ordered, 0.0)
    whole = ordered.sum() if share_of_rest else 1.0
    before = ordered.cumsum(0) - (ordered if crossing else 0.0)
    inside = before < top_p * whole if crossing else before <= top_p * whole
    inside[0] = True
    kept = torch.zeros_like(probabilities).scatter_(0, ids, (inside & (ordered > 0)).double()) * probabilities
    order = torch.arange(len(kept)) if in_order else ids
    sums = kept[order].cumsum(0)
    target = share * (sums[-1] if renormalise else 1.0)
    place = int((sums <= target if passes else sums < target).sum())
    last = int((kept[order] > 0).nonzero().max())
    return int(order[min(place, last)])


def _wrong(**options: Any) -> Any:
    return lambda *args: _sample(*args, **options)


def _greedy(logits: Tensor, temperature: float, top_k: int, top_p: float, share: float) -> int:
    return int(logits.argmax())


def _in_words(found: float, right: float) -> str:
    return f"You draw token {found:g}; the right token for this input is {right:g}."


SAMPLE_TOKEN_ANSWER = Answer(
    exercise=SAMPLE_TOKEN,
    reference=sample_token,
    comparison=Comparison(),
    mistakes=(
        Mistake("You drop the token at which the sum reaches top_p; keep it.", _wrong(crossing=False)),
        Mistake("You multiply the logits by the temperature; divide them by it.", _wrong(scale=lambda logits, t: logits * t)),
        Mistake(
            "You divide by the temperature too late: divide first, because top_k and top_p use the probabilities after the "
            "division.",
            _wrong(late=True),
        ),
        Mistake(
            "top_p is a fraction of the probability that top_k kept, but you apply it to the whole vocabulary.",
            _wrong(share_of_rest=False),
        ),
        Mistake(
            "The kept probabilities no longer add up to 1: compare the running sum with share times their total.",
            _wrong(renormalise=False),
        ),
        Mistake("You add up in order of probability; add up in order of token number.", _wrong(in_order=False)),
        Mistake("You always take the likeliest token; use `share` to choose a token.", _greedy),
        Mistake(
            "The temperature is not used: divide the logits by it before the softmax.", _wrong(scale=lambda logits, t: logits)
        ),
        Mistake(
            "The sum must exceed share (>, not >=): with a share of 0 you draw token 0, even if it was not kept.",
            _wrong(passes=False),
        ),
        Mistake("top_p is not applied.", lambda z, t, k, p, share: sample_token(z, t, k, 1.0, share)),
    ),
    words=_in_words,
)

ANSWERS = (SAMPLE_TOKEN_ANSWER,)
