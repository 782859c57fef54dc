"""Exercise 2.9: from a row of logits to a token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import NothingDrawn
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab02.draws import Draws


def sample_token(logits: Tensor, temperature: float, top_k: int, top_p: float, share: float) -> int:
    """The reference of exercise 2.9."""
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
    """The right function, with one option for each known mistake."""
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


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    settings = [(1.0, 0, 1.0), (0.6, 5, 1.0), (1.7, 0, 0.7), (0.7, 12, 0.8), (1.4, 9, 0.55), (0.8, 1, 0.9)]
    for temperature, top_k, top_p in settings:
        for _ in range(7):
            vocab = draws.pick.choice([23, 50, 97])
            share = draws.pick.random()
            logits = draws.normal(vocab, scale=1.5).cpu()
            label = f"vocab {vocab}, temperature {temperature}, top_k {top_k}, top_p {top_p}, share {share:.3f}"
            cases.append(Case(label, (logits, temperature, top_k, top_p, share)))
    for top_k, top_p in ((3, 1.0), (0, 0.6)):  # `share` is 0, but token 0 is not kept
        logits = draws.normal(31, scale=1.5).cpu()
        logits[0] = float(logits.min()) - 1
        cases.append(Case(f"share 0, top_k {top_k}, top_p {top_p}, token 0 dropped", (logits, 0.9, top_k, top_p, 0.0)))
    for top_k in (1, 4):  # Several tokens are the likeliest, or equally likely tokens are at the border of top_k.
        logits = torch.full((23,), -1.0)
        logits[[2, 5, 11, 17, 20]] = torch.tensor([2.0] * 5 if top_k == 1 else [1.0, 2.0, 1.0, 1.0, 1.0])
        cases.append(Case(f"equal logits, top_k {top_k}", (logits, 0.8, top_k, 1.0, 0.999)))
    return cases


def _in_words(found: float, right: float) -> str:
    return f"You draw token {found:g}; the right token for this input is {right:g}."


SAMPLE_TOKEN = Exercise(
    name="lab02.sample_token",
    lab="02",
    number="2.9",
    title="From logits to a token",
    function="sample_token",
    statement=(
        "Divide `logits` `[vocab]` by `temperature`. Keep the `top_k` likeliest tokens (0 keeps all; of equal tokens, the "
        "lower number comes first). Of these, keep the smallest set of likeliest tokens whose probabilities together **reach** "
        "the fraction `top_p` of their total. Then add up the kept probabilities in order of token number, and return the "
        "first token at which the sum **exceeds** the fraction `share` (0 to 1) of their total.\n\n$$p_i \\propto e^{z_i / T} "
        "\\qquad \\min\\{t : \\textstyle\\sum_{i \\le t} p_i > \\text{share} \\cdot \\sum_i p_i\\}$$"
    ),
    points=10,
    minutes=20,
    difficulty=3,
    cases=_cases,
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
    hints=(
        "Sort the probabilities, largest first, and remember the token of each. Set the probabilities of tokens "
        "that are not kept to 0.",
        "top_k keeps the first of the sorted tokens. For top_p, the running sum (cumsum) before a token tells whether enough "
        "is kept already. Then restore the order of token numbers (scatter), and find share in the running sum (searchsorted).",
        "The sum before each token is before = ordered.cumsum(0) - ordered; compare it with top_p times the total that top_k "
        "kept.",
    ),
    contract=NothingDrawn("use the argument share, which is already a random number"),
    words=_in_words,
)

EXERCISES = (SAMPLE_TOKEN,)
