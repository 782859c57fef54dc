"""What the cells of lab 03 measure: on real processes, with what the learner wrote where it can take part."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.engine import FixedBatches, KVCache
from labkit.engine.part import Part
from labkit.engine.weight_store import read_model
from labkit.exercises.lab03 import small_gptj
from labkit.exercises.lab03.on_ranks import of_rank
from labkit.measure import Timing, compare, progress_bar
from labkit.parallel import Each, Launched, Layout, launch, load_parallel
from labkit.parallel.forward import ParallelForward
from labkit.parallel.ledger import COMPUTE, Entry

REPEATS = 30
TOKENS = 256
WIDTH, LAYERS_A_STAGE, TOKENS_IN_ALL = 1536, 3, 512
"""Of the layers that the timeline runs, and what goes through them."""


def sum_seconds(ranks: int, sizes: Sequence[int]) -> list[float]:
    """Median seconds of `dist.all_reduce` on so many ranks of this host, for tensors of so many bytes each."""
    return list(launch(time_sums, ranks, list(sizes), checked=False, progress=progress_bar("ranks ready", after=1.0)).values[0])


def time_sums(sizes: list[int]) -> list[float]:
    """A rank's part of `sum_seconds`."""
    found = []
    for size in sizes:
        tensor = torch.zeros(max(1, size // 4))
        times = []
        for _ in range(REPEATS):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - began)
        found.append(median(times))
    return found


def bytes_read(name: str, shards: int) -> list[int]:
    """Bytes that each of so many shards reads from a checkpoint, as Linux counts them; a process each."""
    if not os.path.exists("/proc/self/io"):
        print("What a rank reads: not measured here: only Linux tells it. Zeros are shown.")
        return [0] * shards
    return [int(count) for count in launch(read_part, shards, name, progress=progress_bar("ranks ready", after=1.0)).values]


def read_part(name: str) -> int:
    """A rank's part of `bytes_read`."""
    checkpoint = open_checkpoint(name)
    before = _read_so_far()
    read_model(checkpoint, "fp32", torch.device("cpu"), Part(dist.get_rank(), dist.get_world_size()))
    return _read_so_far() - before


def _read_so_far() -> int:
    with open(f"/proc/{os.getpid()}/io") as file:
        return int(file.readline().split()[1])


def one_token(blocks: dict[str, Callable[..., Tensor]], *, layers: int = 28) -> dict[str, tuple[int, float]]:
    """One token through `layers` small blocks on 2 ranks: all-reduces and median seconds of each way to compute a block."""
    layer = small_gptj.make_layer(torch.Generator().manual_seed(0), 256, 1024)
    shards = Each([small_gptj.cut(layer, rank, 2) for rank in range(2)])
    found = {}
    for name, block in blocks.items():
        launched = launch(time_blocks, 2, block, shards, layers, checked=False)
        sums = sum(entry.what == "all_reduce" for entry in of_rank(launched, 0))
        found[name] = sums // REPEATS, float(launched.values[0])
    return found


def time_blocks(block: Callable[..., Tensor], shard: small_gptj.Layer, layers: int) -> float:
    """A rank's part of `one_token`."""
    times = []
    for _ in range(REPEATS):
        hidden = torch.ones(1, 256)
        dist.barrier()
        began = time.perf_counter()
        for _ in range(layers):
            hidden = small_gptj.norm(hidden + block(hidden, shard, 64))
        times.append(time.perf_counter() - began)
    return median(times)


def two_sums(normed: Tensor, shard: small_gptj.Layer, head_dim: int) -> Tensor:
    """A block as Megatron-LM and FasterTransformer have it: attention and MLP are added up each by itself."""
    query, key, value = (normed @ shard[name].T for name in ("query", "key", "value"))
    attention = small_gptj.attend(query, key, value, head_dim) @ shard["out"].T
    dist.all_reduce(attention)
    inner = small_gptj.gelu(normed @ shard["fc_in"].T + shard["fc_in_bias"])
    mlp = inner @ shard["fc_out"].T + shard["fc_out_bias"]
    dist.all_reduce(mlp)
    return attention + mlp


def engine_step(layout: Layout, sequences: int = 4) -> list[Entry]:
    """The ledger of one decode step of `sequences` sequences by labkit's own engine, gptj-tiny laid out so."""
    with load_parallel("gptj-tiny", layout, dtype="fp32", progress=progress_bar("ranks ready", after=1.0)) as engine:
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


def run_pipeline(stage: Callable[..., Any], pieces: int, *, stages: int = 2) -> Launched:
    """The learner's stage on real processes, `TOKENS_IN_ALL` tokens in so many micro-batches: the quickest of three runs."""
    runs = [launch(run_stage, stages, stage, pieces) for _ in range(3)]
    return min(runs, key=lambda run: _span(run)[1] - _span(run)[0])


def run_stage(stage: Callable[..., Any], pieces: int) -> None:
    """A rank's part of `run_pipeline`: everything once to warm up, then, behind a barrier, what counts."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    layers = [torch.randn(WIDTH, WIDTH, generator=generator) * WIDTH**-0.5 for _ in range(LAYERS_A_STAGE)]
    parts = list(torch.split(torch.randn(TOKENS_IN_ALL, WIDTH, generator=generator), TOKENS_IN_ALL // pieces))
    shapes = [list(part.shape) for part in parts]
    for _ in range(2):
        dist.barrier()
        stage(parts if dist.get_rank() == 0 else [], shapes, layers)


def bars_of(launched: Launched) -> dict[str, list[tuple[int, float, float]]]:
    """The work of each rank behind the last barrier, as rows of a timeline."""
    rows = {}
    for rank in range(len(launched.values)):
        own = [entry for entry in launched.ledger if entry.rank == rank]
        begin = max(entry.began for entry in own if entry.what == "barrier")
        rows[f"stage {rank}"] = [(e.piece, e.began, e.seconds) for e in own if e.what == COMPUTE and e.began > begin]
    return rows


def idle_share(launched: Launched) -> float:
    """The share of the time, from the first work to the last, in which the ranks did not work."""
    begin, end = _span(launched)
    work = sum(seconds for row in bars_of(launched).values() for _, _, seconds in row)
    return 1 - work / (len(launched.values) * (end - begin))


def _span(launched: Launched) -> tuple[float, float]:
    bars = [bar for row in bars_of(launched).values() for bar in row]
    return min(began for _, began, _ in bars), max(began + seconds for _, began, seconds in bars)


def stage_seconds(launched: Launched) -> list[float]:
    """Median seconds of each stage for a micro-batch."""
    return [median(seconds for _, _, seconds in row) for row in bars_of(launched).values()]


def run_layouts(layouts: dict[str, Layout | None]) -> dict[str, Timing]:
    """labkit's engine on each layout (None: one process), in turn: `TOKENS` new tokens of 8 prompts of gptj-tiny in fp32."""
    prompts = [[1 + (7 * number + place) % 500 for place in range(16)] for number in range(8)]
    params = labkit.SamplingParams(max_new_tokens=TOKENS // 8, ignore_eos=True)
    with contextlib.ExitStack() as engines:
        calls = {}
        for name, layout in layouts.items():
            one = labkit.load("gptj-tiny", dtype="fp32") if layout is None else load_parallel("gptj-tiny", layout, dtype="fp32")
            calls[name] = partial(engines.enter_context(one).generate, prompts, params)
        bar = progress_bar("layouts in turn")
        return dict(compare(calls, device="cpu", warmup=1, min_runs=5, max_seconds=12, progress=bar))
