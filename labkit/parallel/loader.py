"""From a model's name to an engine whose model lies on several ranks: of this host, or wherever torchrun started them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import torch

from labkit import native
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.engine.engine import Engine
from labkit.engine.engine_options import EngineOptions
from labkit.engine.loader import check_memory, check_options, tokenizer_of
from labkit.environment import usable_cores
from labkit.errors import NotAvailable, RankFailed
from labkit.parallel.devices import rank_device, torchrun_device
from labkit.parallel.layout import Layout
from labkit.parallel.parallel_forward import ParallelForward
from labkit.parallel.rank_forward import RankForward
from labkit.parallel.rank_loop import serve
from labkit.parallel.rank_processes import Ranks
from labkit.parallel.torchrun import Joined, under_torchrun
from labkit.precision import as_precision


def load_parallel(
    name: str | Path,
    layout: Layout,
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Unpack[EngineOptions],
) -> Engine:
    """An engine on `layout.ranks` processes of this host: this one, and others that it starts.

    device: "cpu" (when left out) or "cuda": one GPU a rank, which talk over NCCL; decode steps come from no CUDA graph there,
    `cuda_graphs` or not. dtype, seed, options: as `labkit.load` has them; the KV cache has as many slots as this rank's
    memory allows. threads: of each rank; left out, the cores are shared out. progress: called with the ranks that are ready
    and their number. Close the engine to end the ranks; they end with this process, too, and when the engine is forgotten.

    Raises what `labkit.load` raises; before a process starts `InvalidRequest` when the model cannot be laid out so, and
    `NotAvailable` when there are fewer GPUs than ranks; and `RankFailed` when a rank cannot read its part or has less memory
    than its share of weights and cache takes.
    """
    check_options(options)
    own = _device(layout, device)  # before checksums are computed
    checkpoint = open_checkpoint(name, seed=seed)
    layout.check(checkpoint.config)
    precision = as_precision(dtype, own)
    if own.type == "cpu":  # ranks share the host's memory; each GPU is looked at by its rank
        check_memory(checkpoint, own, precision)
    tokenizer = tokenizer_of(checkpoint)  # before a process starts: it may not fit the model
    forward = start(checkpoint, layout, precision, device=device, threads=threads, progress=progress)
    return Engine(forward.model, tokenizer, forward=forward, **options)


def start(
    checkpoint: Checkpoint,
    layout: Layout,
    precision: str,
    *,
    device: str | None = None,
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
    own_device = _device(layout, device)
    if under_torchrun():
        return _join(checkpoint, layout, precision, own_device, threads)
    each = threads or max(1, usable_cores() // layout.ranks)
    source = {"model": str(checkpoint.path or checkpoint.name), "seed": getattr(checkpoint, "seed", 0)}
    ranks = Ranks(layout, source | {"precision": precision, "threads": each}, device=own_device)
    try:
        ranks.links.connect()
        own = RankForward.load(checkpoint, precision, ranks.links, each)
        ranks.wait_ready(progress)
    except RankFailed as error:
        failure = ranks.failure() or error
        ranks.close()
        raise failure from None
    except BaseException:
        ranks.close()
        raise
    return ParallelForward(ranks, own)


def _device(layout: Layout, device: str | None) -> torch.device:
    return torchrun_device(layout, device) if under_torchrun() else rank_device(layout, device)


def _join(checkpoint: Checkpoint, layout: Layout, precision: str, device: torch.device, threads: int | None) -> ParallelForward:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ranks = Joined(layout, device)
    try:
        ranks.links.connect()
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
