"""Exercise 6.8: accept or reject a draft model's guess, so that the text has the large model's distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws


def distributions(draws: Draws, tokens: int, distance: float) -> tuple[Tensor, Tensor]:
    """The token probabilities of a draft model and of a target model, each `[tokens]` float64.

    The larger the distance, the more the two differ.
    """
    target = draws.normal(tokens, scale=1.5)
    draft = target + draws.normal(tokens, scale=distance)
    return torch.softmax(draft.double(), 0), torch.softmax(target.double(), 0)


def _case(draws: Draws, tokens: int, distance: float, kind: str) -> Case:
    """A case of the kind "likelier", "accepted" or "rejected". No random number is close to a border between two outcomes."""
    draft, target = distributions(draws, tokens, distance)
    ratio = target / draft
    token = int(ratio.argmax() if kind == "likelier" else ratio.argmin())
    if kind == "likelier":
        number = draws.pick.uniform(0.3, 0.95)
    else:
        number = float(ratio[token]) * draws.pick.uniform(0.2, 0.8)
        number = (
            number if kind == "accepted" else float(ratio[token]) + (1 - float(ratio[token])) * draws.pick.uniform(0.2, 0.8)
        )
    rest = (target - draft).clamp_min(0)
    ends = (rest / rest.sum()).cumsum(0)
    place = int(draws.pick.choice((rest > 0.01).nonzero().flatten().tolist() or [int(rest.argmax())]))
    begin = float(ends[place - 1]) if place else 0.0
    other = begin + (float(ends[place]) - begin) * draws.pick.uniform(0.3, 0.7)
    label = f"{tokens} tokens, the guess is {kind}, numbers {number:.3f} and {other:.3f}"
    return Case(label, (draft, target, token, number, other))


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    plan = [(3, 1.0), (7, 0.7), (23, 1.5), (60, 1.0)]
    return [_case(draws, *each, kind) for each in plan for kind in ("likelier", "accepted", "rejected", "rejected")]


ACCEPT_OR_REJECT = Exercise(
    name="lab06.accept_or_reject",
    lab="06",
    number="6.8",
    title="Accept or reject a guess",
    function="accept_or_reject",
    statement=(
        "`draft` and `target` are probabilities `[tokens]`; the draft model drew `token`. Accept it if `number` (random, 0 to 1) is "
        "below target[token] / draft[token]. Otherwise draw from the target's excess over the draft: "
        "$\\max(target - draft, 0)$, divided by its sum. Draw with the second random number `other`: return the first token "
        "for which the sum of the probabilities up to it is above `other`. Return the token, an integer."
    ),
    points=14,
    minutes=8,
    difficulty=3,
    core=True,
    cases=_cases,
    hints=(
        "A token that the target likes better than the draft does: can it ever be rejected?",
        "Clamp the difference at 0, divide it by its sum, and take the running sum. Then count how many of its entries are not above "
        "the second random number.",
        "rest = (target - draft).clamp_min(0); sums = (rest / rest.sum()).cumsum(0)",
    ),
)
EXERCISES = (ACCEPT_OR_REJECT,)
