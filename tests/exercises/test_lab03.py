"""Lab 03's contracts: right values with wrong traffic fail, honest solutions pass, and the references compute the same values
as a single process.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from labkit.answers.lab03.block import parallel_block, shard_layer
from labkit.answers.lab03.column_and_row import split_rows
from labkit.answers.lab03.counting import choose_layout, step_traffic
from labkit.answers.lab03.pipeline import pipeline_schedule, pipeline_stage
from labkit.exercises.case import Case
from labkit.exercises.lab03 import measurements, small_gptj
from labkit.exercises.lab03.block import PARALLEL_BLOCK, SHARD_LAYER
from labkit.exercises.lab03.column_and_row import SPLIT_COLUMNS, SPLIT_ROWS
from labkit.exercises.lab03.counting import CHOOSE_LAYOUT, STEP_TRAFFIC
from labkit.exercises.lab03.pipeline import PIPELINE_SCHEDULE, PIPELINE_STAGE, run_layers
from labkit.exercises.lab03.small_gptj import whole_block
from labkit.exercises.lab03.vocabulary import SHARDED_ARGMAX
from labkit.grading.call import run_seeds
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import judge
from labkit.grading.verdict import FAILED, PASSED
from labkit.launch import Each
from tests.busy_core import no_other_programs
from tests.exercises.learners import as_learners
from tests.sampled import one_in

SEEDS = (11,)


@pytest.fixture(autouse=True)
def without_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no other program count as busy, so that ranks that wait in vain for each other never give an inconclusive verdict."""
    no_other_programs(monkeypatch)


def verdict_on(exercise: Any, function: Callable[..., Any]) -> Any:
    return judge(answer_to(exercise), run_seeds(function, exercise, SEEDS))


# Right values, wrong traffic -------------------------------------------------------------------------------------------
def column_with_a_barrier(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    size, more = divmod(len(weight), ranks)
    begin = rank * size + min(rank, more)
    dist.barrier()
    return F.linear(x, weight[begin : begin + size + (rank < more)], bias[begin : begin + size + (rank < more)])


def column_of_the_whole(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every rank computes the whole matrix product and keeps its own share."""
    return F.linear(x, weight, bias).tensor_split(dist.get_world_size(), 1)[dist.get_rank()]


def column_of_the_whole_by_elements(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = (x[:, None] * weight).sum(-1) + bias
    return out.tensor_split(dist.get_world_size(), 1)[dist.get_rank()]


def column_outside_of_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = torch.from_numpy(x.numpy() @ weight.numpy().T) + bias
    return out.tensor_split(dist.get_world_size(), 1)[dist.get_rank()]


def row_by_gathering(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every rank gathers all shares and computes the whole matrix product."""
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
    """A stage first receives all micro-batches, and only then computes and sends them, so no two stages compute at the same
    time.
    """
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
    (SPLIT_COLUMNS, column_with_a_barrier, "calls 1 x barrier; the right calls are no collective"),
    (SPLIT_COLUMNS, column_of_the_whole, "rank 0 of 2 multiplies 48 times, but its own output features need only 24"),
    (SPLIT_COLUMNS, column_of_the_whole_by_elements, "rank 0 of 2 multiplies 48 times, but"),
    (SPLIT_COLUMNS, column_outside_of_torch, "takes 48 numbers out of torch, but its share of weight has only 24"),
    (SPLIT_ROWS, row_by_gathering, "2 x all_gather of|1 x all_gather of"),
    (SPLIT_ROWS, row_by_two_sums, "x all_reduce of"),
    (SPLIT_ROWS, row_on_rank_0, "1 x broadcast of"),
    (PARALLEL_BLOCK, block_with_two_sums, "calls 2 x all_reduce of"),
    (SHARDED_ARGMAX, argmax_of_gathered_logits, "do not gather the logits"),
    (PIPELINE_STAGE, stage_that_collects, "before it sends the first"),
    (PIPELINE_STAGE, stage_by_broadcast, "broadcast"),
)


@pytest.mark.parametrize(
    ("exercise", "function", "words"), one_in(3, CHEATS), ids=[function.__name__ for _, function, _ in CHEATS]
)
def test_right_values_by_the_wrong_traffic_fail(exercise: Any, function: Callable[..., Any], words: str) -> None:
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


def column_by_elements(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    weight, bias = weight.tensor_split(ranks)[rank], bias.tensor_split(ranks)[rank]
    return (x[:, None] * weight).sum(-1) + bias


def column_by_picked_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    own = torch.arange(len(weight)).tensor_split(dist.get_world_size())[dist.get_rank()]
    return torch.einsum("ti,oi->to", x, weight[own]) + bias[own]


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
    [
        (SPLIT_COLUMNS, column_by_elements),
        (SPLIT_COLUMNS, column_by_picked_rows),
        (SPLIT_ROWS, row_with_the_bias_behind),
        (SHARDED_ARGMAX, argmax_by_two_reduces),
        (PIPELINE_STAGE, stage_that_asks_ahead),
    ],
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
    from labkit.launch import launch

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
    assert "the other ranks did not join" in verdict.message
    assert "rank 1 had already reached the end of the function" in verdict.message


# Messages on wrong answers ---------------------------------------------------------------------------------------------
def wait_in_vain_for_a_tensor(pieces: list[Tensor], shapes: list[list[int]], layers: list[Tensor]) -> list[Any]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    done = []
    for number, shape in enumerate(shapes):
        x: Any = pieces[number] if rank == 0 else dist.recv(torch.empty(shape), rank - 1)
        x = run_layers(x, layers, number)
        if rank < ranks - 1:
            dist.send(x, rank + 1)
        else:
            done.append(x)
    return done


def stage_by_its_own_means(pieces: list[Tensor], shapes: list[list[int]], layers: list[Tensor]) -> list[Tensor]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    done = []
    for number, shape in enumerate(shapes):
        x = pieces[number] if rank == 0 else torch.empty(shape)
        if rank:
            dist.recv(x, rank - 1)
        for weight in layers:
            x = x + torch.tanh(x @ weight.T)
        if rank < ranks - 1:
            dist.send(x, rank + 1)
        else:
            done.append(x)
    return done


def test_a_case_that_raises_ends_the_check_and_says_what_recv_does() -> None:
    runs = run_seeds(wait_in_vain_for_a_tensor, PIPELINE_STAGE, (11, 23))
    assert [len(outcomes) for outcomes in runs.values()] == [1]
    message = judge(answer_to(PIPELINE_STAGE), runs).message
    assert "unsupported operand type(s) for @: 'int' and 'Tensor'; dist.recv writes into the tensor that you pass" in message


def test_a_stage_that_never_calls_run_layers_is_told_so() -> None:
    message = verdict_on(PIPELINE_STAGE, stage_by_its_own_means).message
    assert message.startswith("The result is right, but rank 0 of 2 never calls run_layers"), message


def counts_nothing_right(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[int]]:
    """An answer with two mistakes at once, so that it does not match any known mistake."""
    sums, one = layers // stages + (stage == 0), tokens * hidden * 4
    return {"all_reduce": [sums, sums * one], "send": [int(stage < stages - 1), (stage < stages - 1) * one]}


def a_sum_too_many(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[int]]:
    found = own_step_traffic(layers, hidden, tokens, shards, stages, stage)
    sums, one = found["all_reduce"][0] + (stage == 1), tokens * hidden * 4
    return found | {"all_reduce": [sums, sums * one]}


def half_a_send(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[int]]:
    found = own_step_traffic(layers, hidden, tokens, shards, stages, stage)
    return found | {"send": [found["send"][0], found["send"][1] // 2]}


own_step_traffic, own_pipeline_schedule, own_choose_layout = map(as_learners, (step_traffic, pipeline_schedule, choose_layout))


def two_sends(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[int]]:
    found = own_step_traffic(layers, hidden, tokens, shards, stages, stage)
    return found | {"send": [2 * count for count in found["send"]]}


def sends_in_the_last(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[int]]:
    found = own_step_traffic(layers, hidden, tokens, shards, stages, stage)
    return found | {"send": [3, 3]} if stage == stages - 1 else found


def busy_is_forgotten(seconds: list[float], pieces: int) -> Any:
    begins, _ = own_pipeline_schedule(seconds, pieces)
    early = [[row[0], *(before + 0.5 * own for before in row[:-1])] for row, own in zip(begins, seconds, strict=True)]
    return early, 0.5


def front_is_forgotten(seconds: list[float], pieces: int) -> Any:
    begins, idle = own_pipeline_schedule(seconds, pieces)
    return [begins[0], *([begin - 0.5 * seconds[0] for begin in row] for row in begins[1:])], idle


def later_than_it_could(seconds: list[float], pieces: int) -> Any:
    begins, idle = own_pipeline_schedule(seconds, pieces)
    return [[begin + 0.25 * stage for begin in row] for stage, row in enumerate(begins)], idle


def idle_in_percent(seconds: list[float], pieces: int) -> Any:
    begins, idle = own_pipeline_schedule(seconds, pieces)
    return begins, 100 * idle


def idle_of_nothing(seconds: list[float], pieces: int) -> Any:
    return own_pipeline_schedule(seconds, pieces)[0], 0.9


def more_than_there_are(model: Any, machine: Any) -> tuple[int, int]:
    return 2 * machine["nodes"], machine["gpus"]


def every_layer_a_stage(model: Any, machine: Any) -> tuple[int, int]:
    return 1, model["layers"] + 1


def seven_shards(model: Any, machine: Any) -> tuple[int, int]:
    return 7, 1


def alone(model: Any, machine: Any) -> tuple[int, int]:
    return 1, 1


def a_stage_more(model: Any, machine: Any) -> tuple[int, int]:
    shards, stages = own_choose_layout(model, machine)
    return (shards, stages) if shards > 1 else (1, machine["nodes"] * machine["gpus"])


TOLD: tuple[tuple[Any, Callable[..., Any], str], ...] = (
    (STEP_TRAFFIC, counts_nothing_right, r"^You count 3 x all_reduce, but with a single shard"),
    (
        STEP_TRAFFIC,
        a_sum_too_many,
        r"^You count 13 x all_reduce in stage 1 of 2, which holds 12 of 24 blocks .* no embedding\.$",
    ),
    (
        STEP_TRAFFIC,
        half_a_send,
        r"^You count 1 x send, which is right, but 16,384 bytes .*: each call carries 8 x 1024 numbers of 4",
    ),
    (STEP_TRAFFIC, two_sends, r"^You count 2 x send; stage 0 of 2 sends the hidden state once to the next\.$"),
    (STEP_TRAFFIC, sends_in_the_last, r"^You count 3 x send; stage 0 of 1 is the last and sends nothing\.$"),
    (PIPELINE_SCHEDULE, busy_is_forgotten, r"^begins\[0\]\[1\] is 0\.5: stage 0 is still busy with micro-batch 0 then\.$"),
    (PIPELINE_SCHEDULE, front_is_forgotten, r"^begins\[1\]\[0\] is 0\.5: stage 0 has not finished micro-batch 0 by then\.$"),
    (PIPELINE_SCHEDULE, later_than_it_could, r"^begins\[1\]\[0\] is 1\.25: stage 1 could begin earlier"),
    (PIPELINE_SCHEDULE, idle_in_percent, r"^Your `begins` are right, but `idle` is in percent"),
    (PIPELINE_SCHEDULE, idle_of_nothing, r"^Your `begins` are right, but `idle` is 0\.9, too large"),
    (CHOOSE_LAYOUT, more_than_there_are, r"^2 shards times 8 stages make 16 ranks, but the machine has 8 GPUs\.$"),
    (CHOOSE_LAYOUT, every_layer_a_stage, r"^1 shard times 29 stages make 29 ranks"),
    (CHOOSE_LAYOUT, seven_shards, r"^16 heads cannot be divided evenly by your 7 shards\.$"),
    (
        CHOOSE_LAYOUT,
        alone,
        r"^\(1, 1\) is possible, but takes [\d.]+ ms for a token: [\d.]+ ms for reading weights, 0 ms for all-reduces, 0 ms",
    ),
    (CHOOSE_LAYOUT, a_stage_more, r"ms for sends\. The fastest layout takes [\d.]+ ms and leaves GPUs idle\.$"),
)


@pytest.mark.parametrize(("exercise", "function", "words"), TOLD, ids=[function.__name__ for _, function, _ in TOLD])
def test_an_answer_that_is_no_known_mistake_is_told_what_is_wrong(
    exercise: Any, function: Callable[..., Any], words: str
) -> None:
    verdict = verdict_on(exercise, function)
    assert verdict.verdict == FAILED
    assert re.search(words, verdict.message), verdict.message


def test_too_little_memory_and_too_many_stages_are_named() -> None:
    explain = answer_to(CHOOSE_LAYOUT).explain
    assert explain is not None
    model, machine = next(case.args for case in CHOOSE_LAYOUT.cases(11) if case.args[1]["nodes"] == case.args[1]["gpus"] == 2)
    assert explain(Case("", (model, machine)), (1, 1), (2, 2)).endswith(
        "holds 12.1 GB of weights, but its memory is only 7 GB."
    )
    few = model | {"layers": 3}
    assert (
        explain(Case("", (few, machine)), (1, 4), (1, 2))
        == "You have 4 stages for 3 layers: each stage needs at least one layer."
    )


def test_a_count_may_be_true_or_false() -> None:
    def by_comparison(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = dict(own_step_traffic(layers, hidden, tokens, shards, stages, stage))
        send = stage < stages - 1
        return found | {"send": [send, send * tokens * hidden * 4]}

    assert verdict_on(STEP_TRAFFIC, by_comparison).verdict == PASSED


NOTEBOOK = (
    "def shard_layer(layer, rank, ranks):\n    return right(layer, rank, ranks)\n",
    "old = shard_layer\n",
    "def shard_layer(layer, rank, ranks):\n    return 'nonsense'\n    return old(layer, rank, ranks)\n",
)


def test_a_new_function_is_not_taken_for_an_old_one_of_its_name() -> None:
    scope: dict[str, Any] = {"right": shard_layer}
    for number, source in enumerate(NOTEBOOK):
        linecache.cache[f"<cell {number}>"] = (len(source), None, source.splitlines(keepends=True), f"<cell {number}>")
        exec(compile(source, f"<cell {number}>", "exec"), scope)
    assert verdict_on(SHARD_LAYER, scope["shard_layer"]).verdict == FAILED
    assert verdict_on(SHARD_LAYER, scope["old"]).verdict == PASSED


def test_a_right_function_that_keeps_its_draft_passes() -> None:
    def split_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x @ weight

    draft = split_rows

    def split_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # type: ignore[no-redef]
        out = x @ weight.T + (bias if dist.get_rank() == 0 else 0)
        dist.all_reduce(out)
        return out if bool(out.isfinite().all()) else draft(x, weight, bias)

    assert verdict_on(SPLIT_ROWS, split_rows).verdict == PASSED


def test_what_every_rank_reads_and_how_the_stages_hand_on_are_measured() -> None:
    whole = measurements.whole_part("gptj-tiny")
    assert list(whole) == ["2 ranks", "4 ranks"]
    norms = 9 * 2 * 256 * 2
    assert all(size == 0 or norms <= size < 1.2 * norms for size in whole.values())
    runs, times = measurements.run_pipelines(pipeline_stage, (1, 4))
    assert all(timing.runs == measurements.PASSES for timing in times.values())
    for pieces, run in runs.items():
        assert [[number for number, _, _ in row] for row in measurements.bars_of(run).values()] == [list(range(pieces))] * 2
        assert 0 < measurements.idle_share(run) < 1
        assert 0 <= measurements.hand_over_seconds(run) < measurements.batch_seconds(run)
