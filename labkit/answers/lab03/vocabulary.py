"""The answer to exercise 3.5: reference, comparison and known mistakes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab03.on_ranks import (
    BY_RANK,
)
from labkit.exercises.lab03.vocabulary import SHARDED_ARGMAX


def sharded_argmax(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    """The reference solution of exercise 3.5."""
    value, place = F.linear(hidden, head, bias).max(-1)
    mine = torch.stack((value.double(), (place + first).double()))
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    values, tokens = torch.stack(found).unbind(1)
    return tokens.gather(0, values.argmax(0, keepdim=True))[0].long()


def _gathered(hidden: Tensor, head: Tensor, bias: Tensor, first: int, *, best: bool) -> tuple[Tensor, Tensor]:
    """Return, for each rank and each row, the largest logit and its token. If `best` is false, take the smallest logit."""
    logits = F.linear(hidden, head, bias)
    value, place = logits.max(-1) if best else logits.min(-1)
    mine = torch.stack((value.double(), (place + first).double()))
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    values, tokens = torch.stack(found).unbind(1)
    return values, tokens.long()


def _own(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    return F.linear(hidden, head, bias).argmax(-1) + first


def _no_first(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    values, tokens = _gathered(hidden, head, bias, 0, best=True)
    return tokens.gather(0, values.argmax(0, keepdim=True))[0]


def _whose(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    return _gathered(hidden, head, bias, first, best=True)[0].argmax(0)


def _largest_token(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    token = _own(hidden, head, bias, first)
    dist.all_reduce(token, dist.ReduceOp.MAX)
    return token


def _no_bias(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    return sharded_argmax(hidden, head, torch.zeros_like(bias), first)


def _last_of_equals(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    values, tokens = _gathered(hidden, head, bias, first, best=True)
    backwards = len(values) - 1 - values.flip(0).argmax(0, keepdim=True)
    return tokens.gather(0, backwards)[0]


def _sum_of_equals(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    value, place = F.linear(hidden, head, bias).max(-1)
    best = value.clone()
    dist.all_reduce(best, dist.ReduceOp.MAX)
    token = torch.where(value == best, place + first, 0)
    dist.all_reduce(token)
    return token


SHARDED_ARGMAX_ANSWER = Answer(
    exercise=SHARDED_ARGMAX,
    reference=sharded_argmax,
    comparison=Comparison(),
    names=BY_RANK,
    mistakes=(
        Mistake("Each of your ranks returns the best token of its own part: compare the values of all ranks.", _own),
        Mistake("You return the index within this rank's part, not the token: add `first`.", _no_first),
        Mistake("You return the number of the rank that holds the best token; return the token.", _whose),
        Mistake("You take the largest token number of the ranks' best tokens: compare their logits instead.", _largest_token),
        Mistake("The bias is missing: the logits are hidden @ head.T + bias.", _no_bias),
        Mistake("When two ranks have equal best logits, you add up their tokens: return the smaller token.", _sum_of_equals),
        Mistake(
            "When two ranks have equal best logits, you return the larger token: return the smaller token.", _last_of_equals
        ),
    ),
)

ANSWERS = (SHARDED_ARGMAX_ANSWER,)
