"""The answers to exercises 3.1 and 3.2: references, comparisons and known mistakes."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab03.column_and_row import SPLIT_COLUMNS, SPLIT_ROWS
from labkit.exercises.lab03.on_ranks import (
    BY_RANK,
)
from labkit.exercises.lab03.small_gptj import stretch


def _held(count: int) -> slice:
    """This rank's share of `count` rows or columns."""
    return stretch(count, dist.get_rank(), dist.get_world_size())


# 3.1 ------------------------------------------------------------------------------------------------------------------
def split_columns(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The reference solution of exercise 3.1."""
    held = _held(len(weight))
    return F.linear(x, weight[held], bias[held])


def _everything(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias)


def _every_nth(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    return F.linear(x, weight[rank::ranks], bias[rank::ranks])


def _rest_to_last(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    size = len(weight) // ranks
    end = None if rank == ranks - 1 else (rank + 1) * size
    return F.linear(x, weight[rank * size : end], bias[rank * size : end])


def _rest_dropped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rank, size = dist.get_rank(), len(weight) // dist.get_world_size()
    return F.linear(x, weight[rank * size : (rank + 1) * size], bias[rank * size : (rank + 1) * size])


def _bias_once(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    held = _held(len(weight))
    return F.linear(x, weight[held], bias[held] if dist.get_rank() == 0 else None)


def _chunks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    return F.linear(x, weight.chunk(ranks)[rank], bias.chunk(ranks)[rank])


def _other_way(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    held = _held(weight.shape[1])
    return F.linear(x[:, held], weight[:, held], bias)


SPLIT_COLUMNS_ANSWER = Answer(
    exercise=SPLIT_COLUMNS,
    reference=split_columns,
    comparison=Comparison(),
    names=BY_RANK,
    mistakes=(
        Mistake(
            "Each of your ranks computes everything: cut the rows of weight and bias before the multiplication.", _everything
        ),
        Mistake(
            "You give rank r the rows r, r + ranks, r + 2 ranks and so on, but the rows of a rank must be next to each other, "
            "so that it reads one block of memory.",
            _every_nth,
        ),
        Mistake(
            "Your last rank gets all remaining rows, and the other ranks wait for it: give one row more to each of the first "
            "ranks instead.",
            _rest_to_last,
        ),
        Mistake(
            "You lose rows when they cannot be divided evenly: each of the first ranks must get one row more.", _rest_dropped
        ),
        Mistake(
            "You add the bias only on rank 0. Each output feature has its own bias, which the rank with this feature must add.",
            _bias_once,
        ),
        Mistake(
            "torch.chunk may return fewer pieces than you ask for (3 pieces for 6 rows over 4 ranks): use torch.tensor_split.",
            _chunks,
        ),
        Mistake(
            "You cut the input features (the columns of weight), so each rank has only a part of every sum. Cut the rows.",
            _other_way,
        ),
    ),
)


# 3.2 ------------------------------------------------------------------------------------------------------------------
def split_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The reference solution of exercise 3.2."""
    out = x @ weight.T
    if dist.get_rank() == 0:
        out += bias
    dist.all_reduce(out)
    return out


def _no_sum(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias)


def _no_sum_bias_once(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias if dist.get_rank() == 0 else None)


def _bias_each(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = F.linear(x, weight, bias)
    dist.all_reduce(out)
    return out


def _bias_never(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = F.linear(x, weight)
    dist.all_reduce(out)
    return out


def _mean(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = x @ weight.T
    dist.all_reduce(out)
    return out / dist.get_world_size() + bias


def _only_first(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    out = F.linear(x, weight, bias if dist.get_rank() == 0 else None)
    dist.reduce(out, 0)
    return out if dist.get_rank() == 0 else None


SPLIT_ROWS_ANSWER = Answer(
    exercise=SPLIT_ROWS,
    reference=split_rows,
    comparison=Comparison(),
    names=BY_RANK,
    mistakes=(
        Mistake("Your ranks return parts of the sums: call all_reduce to add them up.", _no_sum),
        Mistake(
            "Your ranks return parts of the sums, with the bias in one of the parts: call all_reduce to add them up.",
            _no_sum_bias_once,
        ),
        Mistake("Every rank adds the bias, so your sum contains it once for each rank: add it on one rank only.", _bias_each),
        Mistake("The bias is missing: add it on one rank.", _bias_never),
        Mistake(
            "You divide the sum by the number of ranks, but the tensors are parts of one sum: they must be added, not "
            "averaged.",
            _mean,
        ),
        Mistake("Only rank 0 returns the output, but every rank needs it: use all_reduce.", _only_first),
    ),
)

ANSWERS = (SPLIT_COLUMNS_ANSWER, SPLIT_ROWS_ANSWER)
