"""From a model's name to an engine whose model lies on several ranks of this host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import torch

from labkit import native
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.engine.engine import Engine, EngineOptions
from labkit.engine.loader import check_memory, tokenizer_of
from labkit.engine.scheduler import MAX_BATCH_SIZE, MAX_STEP_TOKENS, check_limits
from labkit.environment import usable_cores
from labkit.errors import NotAvailable, RankFailed
from labkit.parallel.forward import ParallelForward
from labkit.parallel.layout import Layout
from labkit.parallel.rank import RankForward
from labkit.parallel.ranks import Ranks
from labkit.parallel.serve import serve
from labkit.parallel.torchrun import Joined, under_torchrun
from labkit.precision import as_precision


def load_parallel(
    name: str | Path,
    layout: Layout,
    *,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Unpack[EngineOptions],
) -> Engine:
    """An engine on `layout.ranks` processes of this host: this one, and others that it starts.

    dtype, seed, options: as `labkit.load` has them. threads: of each rank; left out, the cores are shared out. progress:
    called with the ranks that are ready and their number. Close the engine to end the ranks; they end with this process,
    too, and when the engine is forgotten.

    Raises what `labkit.load` raises; `InvalidRequest` before a process starts when the model cannot be laid out so, and
    `RankFailed` when a rank cannot read its part.
    """
    check_limits(options.get("max_batch_size", MAX_BATCH_SIZE), options.get("max_step_tokens", MAX_STEP_TOKENS))
    device = torch.device("cpu")
    checkpoint = open_checkpoint(name, seed=seed)
    layout.check(checkpoint.config)
    precision = as_precision(dtype, device)
    check_memory(checkpoint, device, precision)
    forward = start(checkpoint, layout, precision, threads=threads, progress=progress)
    return Engine(forward.model, tokenizer_of(checkpoint), forward=forward, **options)


def start(
    checkpoint: Checkpoint,
    layout: Layout,
    precision: str,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ParallelForward:
    """Start the other ranks, read this one's part, and wait until all are ready; arguments as those of `load_parallel`.

    Where torchrun has started them all, this one takes its place among them; only rank 0 comes back from it, the others
    compute until rank 0 is done, and end.
    """
    layout.check(checkpoint.config)
    if not native.available():
        raise NotAvailable(f"ranks on one host talk through labkit's native library, which is not used: {native.why_not()}")
    if under_torchrun():
        return _join(checkpoint, layout, precision, threads)
    each = threads or max(1, usable_cores() // layout.ranks)
    source = {"model": str(checkpoint.path or checkpoint.name), "seed": getattr(checkpoint, "seed", 0)}
    ranks = Ranks(layout, source | {"precision": precision, "threads": each})
    try:
        own = RankForward.load(checkpoint, precision, ranks.links, each)
        ranks.wait_ready(progress)
    except BaseException:
        ranks.close()
        raise
    return ParallelForward(ranks, own)


def _join(checkpoint: Checkpoint, layout: Layout, precision: str, threads: int | None) -> ParallelForward:
    ranks = Joined(layout)
    try:
        each = threads or torch.get_num_threads()  # torchrun sets OMP_NUM_THREADS
        own = RankForward.load(checkpoint, precision, ranks.links, each)
        if ranks.rank == 0:
            return ParallelForward(ranks, own)
        serve(own, ranks.links, ranks.say)
    except RankFailed as error:
        raise ranks.failure() or error from None
    except Exception as error:
        ranks.give_up(f"{type(error).__name__}: {error}")
        raise
    ranks.close()
    raise SystemExit(0)
