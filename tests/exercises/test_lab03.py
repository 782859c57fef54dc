"""Lab 03's contracts: right values by the wrong traffic are told so; honest ways pass; references equal one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.block import PARALLEL_BLOCK, parallel_block
from labkit.exercises.lab03.column_and_row import SPLIT_COLUMNS, SPLIT_ROWS, split_rows
from labkit.exercises.lab03.pipeline import PIPELINE_STAGE, run_layers
from labkit.exercises.lab03.small_gptj import whole_block
from labkit.exercises.lab03.vocabulary import SHARDED_ARGMAX
from labkit.grading.call import run_seeds
from labkit.grading.judge import judge
from labkit.grading.verdict import FAILED, PASSED
from labkit.parallel import Each

SEEDS = (11,)


def verdict_on(exercise: Any, function: Callable[..., Any]) -> Any:
    return judge(exercise, run_seeds(function, exercise, SEEDS))


# Right values, wrong traffic -------------------------------------------------------------------------------------------
def column_with_a_barrier(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    size, more = divmod(len(weight), ranks)
    begin = rank * size + min(rank, more)
    dist.barrier()
    return F.linear(x, weight[begin : begin + size + (rank < more)], bias[begin : begin + size + (rank < more)])


def row_by_gathering(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Everybody gets everything, and computes the whole product."""
    ranks = dist.get_world_size()
    widths = [torch.empty(1, dtype=torch.int64) for _ in range(ranks)]
    dist.all_gather(widths, torch.tensor([x.shape[1]]))
    widest = int(max(widths))
    both = F.pad(torch.cat((x, weight)), (0, widest - x.shape[1]))
    parts = [torch.empty_like(both) for _ in range(ranks)]
    dist.all_gather(parts, both)
    whole = torch.cat([part[:, : int(width)] for part, width in zip(parts, widths, strict=True)], dim=1)
    return F.linear(whole[: len(x)], whole[len(x) :], bias)


def row_by_two_sums(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    half = len(weight) // 2
    parts = [x @ weight[:half].T, x @ weight[half:].T]
    for part in parts:
        dist.all_reduce(part)
    return torch.cat(parts, dim=1) + bias


def row_on_rank_0(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = x @ weight.T
    dist.reduce(out, 0)
    out = out + bias
    dist.broadcast(out, 0)
    return out


def block_with_two_sums(normed: Tensor, shard: dict[str, Tensor], head_dim: int) -> Tensor:
    zeros = {name: torch.zeros_like(shard[name]) for name in ("fc_out", "fc_out_bias")}
    attention = whole_block(normed, shard | zeros, head_dim)
    mlp = whole_block(normed, shard | {"out": torch.zeros_like(shard["out"])}, head_dim)
    dist.all_reduce(attention)
    dist.all_reduce(mlp)
    return attention + mlp


def argmax_of_gathered_logits(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    logits = F.linear(hidden, head, bias)
    ranks = dist.get_world_size()
    sizes = [torch.empty(1, dtype=torch.int64) for _ in range(ranks)]
    dist.all_gather(sizes, torch.tensor([len(head)]))
    padded = F.pad(logits, (0, int(max(sizes)) - len(head)), value=float("-inf"))
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:, : int(size)] for part, size in zip(parts, sizes, strict=True)], dim=1).argmax(1)


def stage_that_collects(pieces: list[Tensor], shapes: list[list[int]], layers: list[Tensor]) -> list[Tensor]:
    """All micro-batches in, all computed, all out: nobody works at the same time."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    held = list(pieces) if rank == 0 else [torch.empty(shape) for shape in shapes]
    if rank:
        for x in held:
            dist.recv(x, rank - 1)
    held = [run_layers(x, layers, number) for number, x in enumerate(held)]
    if rank == ranks - 1:
        return held
    for x in held:
        dist.send(x, rank + 1)
    return []


def stage_by_broadcast(pieces: list[Tensor], shapes: list[list[int]], layers: list[Tensor]) -> list[Tensor]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    done = []
    for number, shape in enumerate(shapes):
        x = pieces[number] if rank == 0 else torch.empty(shape)
        for stage in range(ranks):
            if stage == rank:
                x = run_layers(x, layers, number)
            if stage < ranks - 1:
                dist.broadcast(x, stage)
        done.append(x)
    return done if rank == ranks - 1 else []


CHEATS: tuple[tuple[Any, Callable[..., Any], str], ...] = (
    (SPLIT_COLUMNS, column_with_a_barrier, "calls 1 x barrier where no collective is asked for"),
    (SPLIT_ROWS, row_by_gathering, "2 x all_gather of|1 x all_gather of"),
    (SPLIT_ROWS, row_by_two_sums, "x all_reduce of"),
    (SPLIT_ROWS, row_on_rank_0, "1 x broadcast of"),
    (PARALLEL_BLOCK, block_with_two_sums, "calls 2 x all_reduce of"),
    (SHARDED_ARGMAX, argmax_of_gathered_logits, "do not gather the logits"),
    (PIPELINE_STAGE, stage_that_collects, "before it (sends the first|hands on the first)"),
    (PIPELINE_STAGE, stage_by_broadcast, "broadcast"),
)


@pytest.mark.parametrize(("exercise", "function", "words"), CHEATS, ids=[function.__name__ for _, function, _ in CHEATS])
def test_right_values_by_the_wrong_traffic_fail(exercise: Any, function: Callable[..., Any], words: str) -> None:
    import re

    verdict = verdict_on(exercise, function)
    assert verdict.verdict == FAILED
    assert verdict.message.startswith("The result is right, but "), verdict.message
    assert re.search(words, verdict.message), verdict.message


# Honest ways -----------------------------------------------------------------------------------------------------------
def row_with_the_bias_behind(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = x @ weight.T
    work = dist.all_reduce(out, async_op=True)
    work.wait()
    return out + bias


def argmax_by_two_reduces(hidden: Tensor, head: Tensor, bias: Tensor, first: int) -> Tensor:
    value, place = F.linear(hidden, head, bias).max(-1)
    best = value.clone()
    dist.all_reduce(best, dist.ReduceOp.MAX)
    token = torch.where(value == best, place + first, torch.iinfo(torch.int64).max)
    dist.all_reduce(token, dist.ReduceOp.MIN)
    return token


def stage_that_asks_ahead(pieces: list[Tensor], shapes: list[list[int]], layers: list[Tensor]) -> list[Tensor]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    done, sends = [], []
    held = list(pieces) if rank == 0 else [torch.empty(shape) for shape in shapes]
    coming = [dist.irecv(held[0], rank - 1)] if rank else []
    for number in range(len(shapes)):
        if rank:
            coming[number].wait()
            if number + 1 < len(shapes):
                coming.append(dist.irecv(held[number + 1], rank - 1))
        x = run_layers(held[number], layers, number)
        if rank < ranks - 1:
            sends.append(dist.isend(x, rank + 1))
        else:
            done.append(x)
    for work in sends:
        work.wait()
    return done


@pytest.mark.parametrize(
    ("exercise", "function"),
    [(SPLIT_ROWS, row_with_the_bias_behind), (SHARDED_ARGMAX, argmax_by_two_reduces), (PIPELINE_STAGE, stage_that_asks_ahead)],
)
def test_honest_ways_pass(exercise: Any, function: Callable[..., Any]) -> None:
    verdict = verdict_on(exercise, function)
    assert verdict.verdict == PASSED, str(verdict)


def test_references_give_what_one_process_gives() -> None:
    for case in SPLIT_ROWS.cases(5):
        shares, weights, bias = case.args
        whole = F.linear(torch.cat(shares.values, dim=1), torch.cat(weights.values, dim=1), bias)
        for value in SPLIT_ROWS.run(split_rows, case).values:
            torch.testing.assert_close(value, whole)
    model = small_gptj.make_model(5, layers=3, heads=4, head_dim=4, inner=32, vocab=50)
    expected = small_gptj.greedy(model, [3, 1, 4], 6)
    assert len(set(expected)) > 1
    parts = [model | {"layers": [small_gptj.cut(layer, rank, 2) for layer in model["layers"]]} for rank in range(2)]
    from labkit.exercises.lab03.block import run_block
    from labkit.parallel import launch

    assert launch(run_block, 2, parallel_block, "tokens", Each(parts), [3, 1, 4], 6).values == [expected] * 2


def test_what_a_rank_raises_is_said_with_its_line() -> None:
    def wrong_shape(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x @ weight

    verdict = verdict_on(SPLIT_ROWS, wrong_shape)
    assert "it raised RuntimeError: on rank 0: mat1 and mat2 shapes cannot be multiplied" in verdict.message
    assert "(in your line `return x @ weight`)" in verdict.message


def test_who_is_waited_for_in_vain_is_said() -> None:
    def only_some(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = F.linear(x, weight, bias)
        if dist.get_rank() == 0:
            dist.all_reduce(out)
        return out

    verdict = verdict_on(SPLIT_ROWS, only_some)
    assert "the others did not come" in verdict.message
    assert "rank 1 had come to the end of the function by then" in verdict.message
