"""Makes the measurements of lab 03 on real processes, where possible with the learner's functions."""

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
from labkit.engine import Engine
from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.on_ranks import of_rank
from labkit.host_cores import usable_cores
from labkit.launch import Each, Launched, launch
from labkit.launch.ledger import COMPUTE, Entry
from labkit.measure import Contention, Task, Timing, compare, progress_bar
from labkit.measure.disturbed import of_most
from labkit.model import FixedBatches, KVCache
from labkit.model.part import Part
from labkit.model.weight_store import read_model
from labkit.parallel import Layout, load_parallel
from labkit.parallel.parallel_forward import ParallelForward

ROUNDS = 150
"""The number of rounds in a measurement. Each round times every call once, so that other programs disturb all calls equally."""
CHUNKS = 6
"""The number of launches that the rounds are divided into, so that the progress bar moves."""
PASSES, LAYOUT_ROUNDS = 5, 20
LAYOUT_TASK = Task("gptj-tiny", sequences=8, prompt_tokens=16, new_tokens=32)
"""The task that every layout runs in the last measurement of the lab."""
WIDTH, LAYERS_A_STAGE, TOKENS_IN_ALL = 1536, 3, 512
"""The pipeline in the timeline: the width of a layer, the layers in each stage, and the total number of tokens."""


def sum_times(ranks: int, sizes: Sequence[int]) -> dict[int, Timing]:
    """Measure, for each size of the tensor in bytes, how long `dist.all_reduce` takes on `ranks` processes of this host."""
    return _in_turn(list(sizes), ranks, time_sums, list(sizes))


def _in_turn(names: list[Any], ranks: int, program: Callable[..., Any], *given: Any) -> dict[Any, Timing]:
    """Return, for each name, the seconds that rank 0 measured.

    In each round, `program` makes and times one call for each name. The number of rounds is the last argument of `program`.
    """
    bar = progress_bar("rounds")
    rows: list[list[float]] = []
    disturbed: list[str] = []
    for chunk in range(CHUNKS):
        bar(chunk * ROUNDS // CHUNKS, ROUNDS)
        launched = launch(program, ranks, *given, ROUNDS // CHUNKS, checked=False)
        rows += launched.values[0][0]
        disturbed.append(_disturbed([words for _, words in launched.values]))
    bar(ROUNDS, ROUNDS)
    words = of_most(disturbed)
    return {name: Timing(tuple(times), words) for name, times in zip(names, zip(*rows, strict=True), strict=True)}


def _disturbed(by_rank: Sequence[str]) -> str:
    """A message about how other programs disturbed a launch; "" if they did not disturb it.

    With more ranks than cores, the ranks themselves disturb one another. Then this returns "", and only the spread of the runs
    shows a disturbance.
    """
    return "" if len(by_rank) > usable_cores() else next(filter(None, by_rank), "")


def time_sums(sizes: list[int], rounds: int) -> list[Any]:
    """Do one rank's part of `sum_times`, and return the result of `_rounds`."""
    tensors = [torch.zeros(max(1, size // 4)) for size in sizes]
    return _rounds([partial(dist.all_reduce, tensor) for tensor in tensors], rounds)


def _rounds(calls: Sequence[Callable[[], Any]], rounds: int) -> list[Any]:
    """Time each call in each round. All ranks start each call together.

    Three additional rounds come first as a warm-up, and are not counted. Returns the seconds of the calls, one row per round,
    and a message about what disturbed the calls.
    """
    rows = []
    with Contention(os.getppid()) as contention:
        for _ in range(3 + rounds):
            row = []
            for call in calls:
                dist.barrier()
                began = time.perf_counter()
                call()
                row.append(time.perf_counter() - began)
            rows.append(row)
    return [rows[3:], contention.words]


def whole_part(name: str) -> dict[str, float]:
    """The number of bytes in the part of a checkpoint that every rank reads whole, measured with 2 and with 4 ranks.

    Because every rank reads this part, the ranks together read more bytes than one process does. The result is computed from
    these additional bytes.
    """
    if not os.path.exists("/proc/self/io"):
        print("Not measured here: only Linux reports how much a process reads. Zeros are shown.")
        return {"2 ranks": 0.0, "4 ranks": 0.0}
    bar = progress_bar("ways to share the file")
    read = []
    for done, shards in enumerate((1, 2, 4)):
        bar(done, 3)
        read.append(bytes_read(name, shards))
    bar(3, 3)
    return {f"{len(each)} ranks": (sum(each) - read[0][0]) / (len(each) - 1) for each in read[1:]}


def bytes_read(name: str, shards: int) -> list[int]:
    """The bytes that each of `shards` processes reads from a checkpoint, as Linux counts them."""
    return [int(count) for count in launch(read_part, shards, name).values]


def read_part(name: str) -> int:
    """Do one rank's part of `bytes_read`, and return the number of bytes that the rank has read."""
    checkpoint = open_checkpoint(name)
    counts = []
    for _ in range(2):  # During the first read, the process also reads its own code.
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
    """Send one token through `layers` blocks on 2 ranks, with one all-reduce (`block`) or with two (`other`) in each block.

    Returns how many all-reduces each variant made, and the times of both variants.
    """
    layer = small_gptj.make_layer(torch.Generator().manual_seed(0), 256, 1024)
    shards = Each([small_gptj.cut(layer, rank, 2) for rank in range(2)])
    sums = []
    for way in (block, other):
        launched = launch(run_blocks, 2, way, shards, layers)
        sums.append(sum(entry.what == "all_reduce" for entry in of_rank(launched, 0)))
    times = _in_turn([0, 1], 2, time_blocks, block, other, shards, layers)
    return sums, [times[0], times[1]]


def run_blocks(block: Callable[..., Tensor], shard: small_gptj.Layer, layers: int) -> None:
    """Send one token through `layers` blocks that all have the same weights."""
    hidden = torch.ones(1, 256)
    for _ in range(layers):
        hidden = small_gptj.norm(hidden + block(hidden, shard, 64))


def time_blocks(
    block: Callable[..., Tensor], other: Callable[..., Tensor], shard: small_gptj.Layer, layers: int, rounds: int
) -> list[Any]:
    """Do one rank's part of `one_token`, and return the result of `_rounds`."""
    return _rounds([partial(run_blocks, way, shard, layers) for way in (block, other)], rounds)


def two_sums(normed: Tensor, shard: small_gptj.Layer, head_dim: int) -> Tensor:
    """A block as in Megatron-LM and FasterTransformer, with two all-reduces: one for attention and one for the MLP."""
    query, key, value = (normed @ shard[name].T for name in ("query", "key", "value"))
    attention = small_gptj.attend(query, key, value, head_dim) @ shard["out"].T
    dist.all_reduce(attention)
    inner = small_gptj.gelu(normed @ shard["fc_in"].T + shard["fc_in_bias"])
    mlp = inner @ shard["fc_out"].T + shard["fc_out_bias"]
    dist.all_reduce(mlp)
    return attention + mlp


def engine_steps(layouts: dict[str, Layout]) -> dict[str, dict[str, list[int]]]:
    """Count, for each layout, the calls and bytes of rank 0 (in the first stage) during one decode step of the engine."""
    bar = progress_bar("layouts")
    found = {}
    for done, (name, layout) in enumerate(layouts.items()):
        bar(done, len(layouts))
        found[name] = counted(engine_step(layout), layout.rank(0, 0))
    bar(len(layouts), len(layouts))
    return found


def engine_step(layout: Layout, sequences: int = 4) -> list[Entry]:
    """Run one decode step of labkit's engine with gptj-tiny, `sequences` sequences and this layout. Returns the ledger."""
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
    """How often one rank called each operation, and how many bytes it sent, in the form of an answer to exercise 3.6."""
    own = [entry for entry in entries if entry.rank == rank]
    found = {}
    for what in ("all_reduce", "send"):
        calls = [entry for entry in own if entry.what == what]
        found[what] = [sum(entry.calls for entry in calls), sum(entry.total_bytes for entry in calls)]
    return found


def run_pipelines(
    stage: Callable[..., Any], counts: Sequence[int], *, stages: int = 2
) -> tuple[dict[int, Launched], dict[int, Timing]]:
    """Run the learner's stage on real processes. For each number in `counts`, `TOKENS_IN_ALL` tokens are divided into that many
    micro-batches.

    Returns two dictionaries whose keys are the numbers of micro-batches: the quickest pass, and the times of all passes. The
    passes with different numbers of micro-batches take turns, so that other programs disturb all of them equally.
    """
    bar = progress_bar("rounds")
    found: dict[int, list[Launched]] = {pieces: [] for pieces in counts}
    disturbed: list[str] = []
    for done in range(PASSES):
        bar(done, PASSES)
        launched = launch(run_stage, stages, stage, list(counts))
        disturbed.append(_disturbed(launched.values))
        for pieces, run in zip(counts, _passes(launched), strict=True):
            found[pieces].append(run)
    bar(PASSES, PASSES)
    words = of_most(disturbed)
    times = {pieces: Timing(tuple(map(batch_seconds, runs)), words) for pieces, runs in found.items()}
    return {pieces: min(runs, key=batch_seconds) for pieces, runs in found.items()}, times


def run_stage(stage: Callable[..., Any], counts: list[int]) -> str:
    """Do one rank's part of `run_pipelines`: one pass as a warm-up, then one pass for each count. Returns a message about what
    disturbed the passes.

    A barrier before each pass marks the beginning of the pass in the ledger.
    """
    generator = torch.Generator().manual_seed(dist.get_rank())
    layers = [torch.randn(WIDTH, WIDTH, generator=generator) * WIDTH**-0.5 for _ in range(LAYERS_A_STAGE)]
    x = torch.randn(TOKENS_IN_ALL, WIDTH, generator=generator)
    with Contention(os.getppid()) as contention:
        for pieces in (counts[0], *counts):
            parts = list(torch.split(x, TOKENS_IN_ALL // pieces))
            dist.barrier()
            stage(parts if dist.get_rank() == 0 else [], [list(part.shape) for part in parts], layers)
    return contention.words


def _passes(launched: Launched) -> list[Launched]:
    """The passes after the warm-up pass, each with its own entries of the ledger."""
    found: dict[int, list[Entry]] = {}
    for rank in range(len(launched.values)):
        number = -1
        for entry in sorted((entry for entry in launched.ledger if entry.rank == rank), key=lambda entry: entry.began):
            number += entry.what == "barrier"
            if entry.what != "barrier":
                found.setdefault(number, []).append(entry)
    return [replace(launched, ledger=found[number]) for number in sorted(found) if number > 0]


def bars_of(launched: Launched) -> dict[str, list[tuple[int, float, float]]]:
    """For each stage, the row of the timeline that shows when the stage was working during a pass."""
    ranks = range(len(launched.values))
    work = [entry for entry in launched.ledger if entry.what == COMPUTE]
    return {f"stage {rank}": [(e.piece, e.began, e.seconds) for e in work if e.rank == rank] for rank in ranks}


def idle_share(launched: Launched) -> float:
    """The fraction of a pass (0 to 1) during which a rank does no work, as a mean over the ranks."""
    work = sum(seconds for row in bars_of(launched).values() for _, _, seconds in row)
    return 1 - work / (len(launched.values) * batch_seconds(launched))


def batch_seconds(launched: Launched) -> float:
    """The seconds from the beginning of the first work in a pass to the end of the last work."""
    bars = [bar for row in bars_of(launched).values() for bar in row]
    return max(began + seconds for _, began, seconds in bars) - min(began for _, began, _ in bars)


def hand_over_seconds(launched: Launched) -> float:
    """The median delay, in seconds, between the time at which stage 1 could start a micro-batch and the time at which it does.

    Stage 1 can start when it is free and stage 0 is done with the micro-batch.
    """
    first, second = bars_of(launched).values()
    free = [began + seconds for _, began, seconds in second]
    waits = []
    for number, (_, began, _) in enumerate(second):
        ready = first[number][1] + first[number][2]
        waits.append(began - max([ready, *free[number - 1 : number]]))
    return median(waits)


def stage_seconds(launched: Launched) -> list[float]:
    """The median seconds that each stage takes for a micro-batch."""
    return [median(seconds for _, _, seconds in row) for row in bars_of(launched).values()]


def _from_the_start(engine: Engine, prompts: list[list[int]], params: labkit.SamplingParams) -> None:
    """Generate tokens, with a whole prefill each time: first make the engine forget the prompts that it knows."""
    engine.forget_prefixes()
    engine.generate(prompts, params)


def run_layouts(layouts: dict[str, Layout | None]) -> tuple[dict[str, Timing], dict[str, int]]:
    """Run `LAYOUT_TASK` in fp32 with each layout. The layouts take turns. The layout None means a single process.

    Returns the times and, for each layout with several ranks, the number of forward passes that the task takes.
    """
    task = LAYOUT_TASK
    prompts = [[1 + (7 * number + place) % 500 for place in range(task.prompt_tokens)] for number in range(task.sequences)]
    params = labkit.SamplingParams(max_new_tokens=task.new_tokens, ignore_eos=True)
    with contextlib.ExitStack() as stack:
        calls, passes = {}, {}
        for name, layout in layouts.items():
            one = labkit.load(task.model, dtype="fp32") if layout is None else load_parallel(task.model, layout, dtype="fp32")
            engine = stack.enter_context(one)
            calls[name] = partial(_from_the_start, engine, prompts, params)
            if isinstance(engine.forward, ParallelForward):
                before = engine.forward.steps
                calls[name]()
                passes[name] = engine.forward.steps - before
        bar, rounds = progress_bar("rounds"), LAYOUT_ROUNDS
        times = compare(calls, device="cpu", warmup=1, min_runs=rounds, max_runs=rounds, progress=bar)
        return dict(times), passes
