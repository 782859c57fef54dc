"""The answer to exercise 6.8: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab06.accept import ACCEPT_OR_REJECT


def accept_or_reject(draft: Tensor, target: Tensor, token: int, number: float, other: float) -> int:
    """The reference solution of exercise 6.8."""
    return int(_token(draft, target, token, number, other))


def _token(
    draft: Tensor,
    target: Tensor,
    token: int,
    number: float,
    other: float,
    *,
    accepts: str = "ratio",
    rest: str = "more",
    divided: bool = True,
    greedy: bool = False,
    swapped: bool = False,
) -> Any:
    """Return the draft's token if it is accepted, and otherwise a newly drawn token. Options make the known mistakes."""
    if swapped:
        number, other = other, number
    limit = {
        "ratio": float(target[token] / draft[token]),
        "upside down": float(draft[token] / target[token]),
        "likelier": 1.0 if target[token] >= draft[token] else 0.0,
        "target": float(target[token]),
        "always": 1.0,
        "never": 0.0,
    }[accepts]
    if number < limit:
        return token
    left = {
        "more": (target - draft).clamp_min(0),
        "target": target,
        "draft": draft,
        "less": (draft - target).clamp_min(0),
        "distance": (target - draft).abs(),
    }[rest]
    if greedy:
        return int(left.argmax())
    sums = (left / left.sum() if divided else left).cumsum(0)
    return min(int((sums <= other).sum()), len(target) - 1)


def _beyond_the_end(draft: Tensor, target: Tensor, token: int, number: float, other: float) -> int:
    """Wrong: what is left is not divided by its sum, so the function raises an error if no running sum is above `other`."""
    if number < target[token] / draft[token]:
        return token
    return int(((target - draft).clamp_min(0).cumsum(0) > other).nonzero()[0])


def _explain(case: Case, found: Any, right: Any) -> str:
    """Return `UNDIVIDED` if the answer fits the mistake that what is left was not divided by its sum.

    With this mistake it can happen that no sum is above the second number. The learner's token is then 0, or one past the last.
    """
    draft, target, _, _, other = case.args
    sums = (target - draft).clamp_min(0).cumsum(0)
    return UNDIVIDED if float(sums[-1]) <= other and int(found) in (0, len(target)) else ""


UNDIVIDED = "None of your sums is above the second number, because they do not end at 1: divide what is left by its sum."


def _whether(draft: Tensor, target: Tensor, token: int, number: float, other: float) -> bool:
    return bool(number < target[token] / draft[token])


ACCEPT_OR_REJECT_ANSWER = Answer(
    exercise=ACCEPT_OR_REJECT,
    reference=accept_or_reject,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "Your quotient is upside down: a guess to which the target gives a higher probability than the draft is "
            "always accepted.",
            partial(_token, accepts="upside down"),
        ),
        Mistake(
            "You reject every guess to which the draft gives a higher probability; accept some of these, as the first "
            "number decides.",
            partial(_token, accepts="likelier"),
        ),
        Mistake(
            "You compare with the target's probability alone; divide it by the draft's.", partial(_token, accepts="target")
        ),
        Mistake("You accept every guess: the text would be the draft's.", partial(_token, accepts="always")),
        Mistake("You never accept the guess.", partial(_token, accepts="never")),
        Mistake(
            "After a rejection you draw from the target; the tokens that the draft prefers would then come too often.",
            partial(_token, rest="target"),
        ),
        Mistake("After a rejection you draw from the draft.", partial(_token, rest="draft")),
        Mistake(
            "You draw where the draft's probability is higher; draw where the target's is higher.", partial(_token, rest="less")
        ),
        Mistake("Negative differences must become 0, not positive.", partial(_token, rest="distance")),
        Mistake("Divide what is left by its sum, so that it is a distribution again.", partial(_token, divided=False)),
        Mistake(UNDIVIDED, _beyond_the_end),
        Mistake("After a rejection you take the likeliest token; the second number must decide.", partial(_token, greedy=True)),
        Mistake(
            "You swapped the two random numbers: the first decides whether the guess is accepted, the second draws.",
            partial(_token, swapped=True),
        ),
        Mistake("You return whether the guess is accepted; return the token.", _whether),
    ),
    explain=_explain,
)
ANSWERS = (ACCEPT_OR_REJECT_ANSWER,)
