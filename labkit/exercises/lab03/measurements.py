"""What the cells of lab 03 measure: on real processes, with what the learner wrote where it can take part."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.on_ranks import of_rank
from labkit.launch import Each, Launched, launch
from labkit.launch.ledger import COMPUTE, Entry
from labkit.measure import Timing, compare, progress_bar
from labkit.model import FixedBatches, KVCache
from labkit.model.part import Part
from labkit.model.weight_store import read_model
from labkit.parallel import Layout, load_parallel
from labkit.parallel.parallel_forward import ParallelForward

ROUNDS = 150
"""Of a measurement in turns, so that what else the machine does meets all alike."""
CHUNKS = 6
"""Launches that share the rounds, so that there is something to tell in between."""
PASSES, LAYOUT_ROUNDS = 5, 20
TOKENS = 256
WIDTH, LAYERS_A_STAGE, TOKENS_IN_ALL = 1536, 3, 512
"""Of the layers that the timeline runs, and what goes through them."""


def sum_times(ranks: int, sizes: Sequence[int]) -> dict[int, Timing]:
    """How long `dist.all_reduce` takes on so many ranks of this host, for tensors of so many bytes each, taken in turn."""
    return _in_turn(list(sizes), ranks, time_sums, list(sizes))


def _in_turn(names: list[Any], ranks: int, program: Callable[..., Any], *given: Any) -> dict[Any, Timing]:
    """Rank 0's seconds of what a program times round by round: it is given the number of rounds last."""
    bar = progress_bar("rounds")
    rows: list[list[float]] = []
    for chunk in range(CHUNKS):
        bar(chunk * ROUNDS // CHUNKS, ROUNDS)
        rows += launch(program, ranks, *given, ROUNDS // CHUNKS, checked=False).values[0]
    bar(ROUNDS, ROUNDS)
    return {name: Timing(tuple(times)) for name, times in zip(names, zip(*rows, strict=True), strict=True)}


def time_sums(sizes: list[int], rounds: int) -> list[list[float]]:
    """A rank's part of `sum_times`: seconds of each size, a row a round."""
    tensors = [torch.zeros(max(1, size // 4)) for size in sizes]
    return _rounds([partial(dist.all_reduce, tensor) for tensor in tensors], rounds)


def _rounds(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each call, all ranks beginning at a time; a row a round, behind three that do not count."""
    rows = []
    for _ in range(3 + rounds):
        row = []
        for call in calls:
            dist.barrier()
            began = time.perf_counter()
            call()
            row.append(time.perf_counter() - began)
        rows.append(row)
    return rows[3:]


def whole_part(name: str) -> dict[str, float]:
    """Bytes of a checkpoint's weights that every rank reads, by how many ranks there are: what they read beyond one copy."""
    if not os.path.exists("/proc/self/io"):
        print("What a rank reads: not measured here: only Linux tells it. Zeros are shown.")
        return {"2 ranks": 0.0, "4 ranks": 0.0}
    bar = progress_bar("ways to share the file")
    read = []
    for done, shards in enumerate((1, 2, 4)):
        bar(done, 3)
        read.append(bytes_read(name, shards))
    bar(3, 3)
    return {f"{len(each)} ranks": (sum(each) - read[0][0]) / (len(each) - 1) for each in read[1:]}


def bytes_read(name: str, shards: int) -> list[int]:
    """Bytes that each of so many shards reads from a checkpoint, as Linux counts them; a process each."""
    return [int(count) for count in launch(read_part, shards, name).values]


def read_part(name: str) -> int:
    """A rank's part of `bytes_read`."""
    checkpoint = open_checkpoint(name)
    counts = []
    for _ in range(2):  # what the process reads of itself, at first, is not the checkpoint's
        before = _read_so_far()
        read_model(checkpoint, "fp32", torch.device("cpu"), Part(dist.get_rank(), dist.get_world_size()))
        counts.append(_read_so_far() - before)
    return min(counts)


def _read_so_far() -> int:
    with open(f"/proc/{os.getpid()}/io") as file:
        return int(file.readline().split()[1])


def one_token(
    block: Callable[..., Tensor], other: Callable[..., Tensor], *, layers: int = 28
) -> tuple[list[int], list[Timing]]:
    """One token through `layers` small blocks on 2 ranks, computed one way and the other in turn: all-reduces, and times."""
    layer = small_gptj.make_layer(torch.Generator().manual_seed(0), 256, 1024)
    shards = Each([small_gptj.cut(layer, rank, 2) for rank in range(2)])
    sums = []
    for way in (block, other):
        launched = launch(run_blocks, 2, way, shards, layers)
        sums.append(sum(entry.what == "all_reduce" for entry in of_rank(launched, 0)))
    times = _in_turn([0, 1], 2, time_blocks, block, other, shards, layers)
    return sums, [times[0], times[1]]


def run_blocks(block: Callable[..., Tensor], shard: small_gptj.Layer, layers: int) -> None:
    """One token through so many blocks of the same weights."""
    hidden = torch.ones(1, 256)
    for _ in range(layers):
        hidden = small_gptj.norm(hidden + block(hidden, shard, 64))


def time_blocks(
    block: Callable[..., Tensor], other: Callable[..., Tensor], shard: small_gptj.Layer, layers: int, rounds: int
) -> list[list[float]]:
    """A rank's part of `one_token`."""
    return _rounds([partial(run_blocks, way, shard, layers) for way in (block, other)], rounds)


def two_sums(normed: Tensor, shard: small_gptj.Layer, head_dim: int) -> Tensor:
    """A block as Megatron-LM and FasterTransformer have it: attention and MLP are added up each by itself."""
    query, key, value = (normed @ shard[name].T for name in ("query", "key", "value"))
    attention = small_gptj.attend(query, key, value, head_dim) @ shard["out"].T
    dist.all_reduce(attention)
    inner = small_gptj.gelu(normed @ shard["fc_in"].T + shard["fc_in_bias"])
    mlp = inner @ shard["fc_out"].T + shard["fc_out_bias"]
    dist.all_reduce(mlp)
    return attention + mlp


def engine_steps(layouts: dict[str, Layout]) -> dict[str, dict[str, list[int]]]:
    """Calls and bytes of rank 0 or, for stages, of the rank in front, in one decode step of the engine on each layout."""
    bar = progress_bar("layouts")
    found = {}
    for done, (name, layout) in enumerate(layouts.items()):
        bar(done, len(layouts))
        found[name] = counted(engine_step(layout), layout.rank(0, 0))
    bar(len(layouts), len(layouts))
    return found


def engine_step(layout: Layout, sequences: int = 4) -> list[Entry]:
    """The ledger of one decode step of `sequences` sequences by labkit's own engine, gptj-tiny laid out so."""
    with load_parallel("gptj-tiny", layout, dtype="fp32") as engine:
        forward = engine.forward
        assert isinstance(forward, ParallelForward)
        cache = KVCache(engine.config, sequences * 20, device=engine.device, dtype=engine.dtype, part=engine.model.part)
        batches = FixedBatches(sequences, 20, engine.device)
        forward(batches.prefill(list(torch.randint(1, 500, (sequences, 16)))), cache)
        forward.ledger()
        forward(batches.decode(torch.ones(sequences, dtype=torch.int64)), cache)
        return forward.ledger()


def counted(entries: list[Entry], rank: int) -> dict[str, list[int]]:
    """Calls and bytes of a rank's entries, in the form of exercise 3.6."""
    own = [entry for entry in entries if entry.rank == rank]
    found = {}
    for what in ("all_reduce", "send"):
        calls = [entry for entry in own if entry.what == what]
        found[what] = [sum(entry.calls for entry in calls), sum(entry.total_bytes for entry in calls)]
    return found


def run_pipelines(stage: Callable[..., Any], counts: Sequence[int], *, stages: int = 2) -> dict[int, Launched]:
    """The learner's stage on real processes, `TOKENS_IN_ALL` tokens in so many micro-batches: the quickest pass of each.

    They are taken in turn, so that what else the machine does meets all alike.
    """
    bar = progress_bar("rounds")
    found: dict[int, list[Launched]] = {pieces: [] for pieces in counts}
    for done in range(PASSES):
        bar(done, PASSES)
        launched = launch(run_stage, stages, stage, list(counts))
        for pieces, run in zip(counts, _passes(launched), strict=True):
            found[pieces].append(run)
    bar(PASSES, PASSES)
    return {pieces: min(runs, key=batch_seconds) for pieces, runs in found.items()}


def run_stage(stage: Callable[..., Any], counts: list[int]) -> None:
    """A rank's part of `run_pipelines`: one pass to warm up, then one for each number of micro-batches, each behind a barrier."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    layers = [torch.randn(WIDTH, WIDTH, generator=generator) * WIDTH**-0.5 for _ in range(LAYERS_A_STAGE)]
    x = torch.randn(TOKENS_IN_ALL, WIDTH, generator=generator)
    for pieces in (counts[0], *counts):
        parts = list(torch.split(x, TOKENS_IN_ALL // pieces))
        dist.barrier()
        stage(parts if dist.get_rank() == 0 else [], [list(part.shape) for part in parts], layers)


def _passes(launched: Launched) -> list[Launched]:
    """The passes that count, each with its own entries."""
    found: dict[int, list[Entry]] = {}
    for rank in range(len(launched.values)):
        number = -1
        for entry in sorted((entry for entry in launched.ledger if entry.rank == rank), key=lambda entry: entry.began):
            number += entry.what == "barrier"
            if entry.what != "barrier":
                found.setdefault(number, []).append(entry)
    return [replace(launched, ledger=found[number]) for number in sorted(found) if number > 0]


def bars_of(launched: Launched) -> dict[str, list[tuple[int, float, float]]]:
    """The work of each rank in a pass, as rows of a timeline."""
    ranks = range(len(launched.values))
    work = [entry for entry in launched.ledger if entry.what == COMPUTE]
    return {f"stage {rank}": [(e.piece, e.began, e.seconds) for e in work if e.rank == rank] for rank in ranks}


def idle_share(launched: Launched) -> float:
    """The share of the time, from the first work to the last, in which the ranks did not work."""
    work = sum(seconds for row in bars_of(launched).values() for _, _, seconds in row)
    return 1 - work / (len(launched.values) * batch_seconds(launched))


def batch_seconds(launched: Launched) -> float:
    """From the first work of a pass to the end of the last."""
    bars = [bar for row in bars_of(launched).values() for bar in row]
    return max(began + seconds for _, began, seconds in bars) - min(began for _, began, _ in bars)


def hand_over_seconds(launched: Launched) -> float:
    """Median seconds that a micro-batch waits for stage 1 although it is done in front and stage 1 is free."""
    front, behind = bars_of(launched).values()
    free = [began + seconds for _, began, seconds in behind]
    waits = []
    for number, (_, began, _) in enumerate(behind):
        ready = front[number][1] + front[number][2]
        waits.append(began - max([ready, *free[number - 1 : number]]))
    return median(waits)


def stage_seconds(launched: Launched) -> list[float]:
    """Median seconds of each stage for a micro-batch."""
    return [median(seconds for _, _, seconds in row) for row in bars_of(launched).values()]


def run_layouts(layouts: dict[str, Layout | None]) -> tuple[dict[str, Timing], dict[str, int]]:
    """labkit's engine on each layout (None: one process), in turn: `TOKENS` new tokens of 8 prompts of gptj-tiny in fp32.

    Beside the times: how many forward passes the ranks of a layout make for them.
    """
    prompts = [[1 + (7 * number + place) % 500 for place in range(16)] for number in range(8)]
    params = labkit.SamplingParams(max_new_tokens=TOKENS // 8, ignore_eos=True)
    with contextlib.ExitStack() as stack:
        calls, passes = {}, {}
        for name, layout in layouts.items():
            one = labkit.load("gptj-tiny", dtype="fp32") if layout is None else load_parallel("gptj-tiny", layout, dtype="fp32")
            engine = stack.enter_context(one)
            calls[name] = partial(engine.generate, prompts, params)
            if isinstance(engine.forward, ParallelForward):
                before = engine.forward.steps
                calls[name]()
                passes[name] = engine.forward.steps - before
        bar, rounds = progress_bar("rounds"), LAYOUT_ROUNDS
        times = compare(calls, device="cpu", warmup=1, min_runs=rounds, max_runs=rounds, progress=bar)
        return dict(times), passes
