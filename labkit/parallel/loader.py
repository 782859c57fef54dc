"""Loads an engine whose model is split over several ranks: processes on this host, or ranks that torchrun started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

import torch

from labkit import native
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.engine import argument_forms
from labkit.engine.engine import Engine
from labkit.engine.engine_options import EngineOptions
from labkit.engine.loader import check_memory, check_options, tokenizer_of
from labkit.errors import InvalidRequest, NotAvailable, RankFailed
from labkit.host_cores import MOST_THREADS, usable_cores
from labkit.model.quantized_kv_cache import check_kv_cache_dtype
from labkit.model.stored_precision import precision_for
from labkit.parallel.devices import rank_device, torchrun_device
from labkit.parallel.layout import Layout
from labkit.parallel.local_ranks import LocalRanks
from labkit.parallel.parallel_forward import ParallelForward
from labkit.parallel.rank_forward import RankForward
from labkit.parallel.rank_loop import run_tasks
from labkit.parallel.torchrun import TorchrunRanks, under_torchrun
from labkit.sampling_vocabulary import MOST_SEED


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
    """Load an engine that runs on `layout.ranks` processes of this host: this process and the processes that it starts.

    device: "cpu" (the default) or "cuda". With "cuda", every rank has one GPU, the GPUs communicate over NCCL, and decode steps
    never use a CUDA graph, even if `cuda_graphs` is set. dtype, seed, options: as in `labkit.load`; the KV cache has as many
    slots as this rank's memory allows. threads: threads per rank, 1 to 1024; by default the cores are divided among the ranks.
    progress: is called with the number of other ranks that are ready and the number of all other ranks.

    The other ranks end when the engine is closed or garbage-collected, and when this process ends.

    Raises the same errors as `labkit.load`. Before a process is started, raises `InvalidRequest` if the model cannot be split
    this way, and `NotAvailable` if there are fewer GPUs than ranks. Raises `RankFailed` if a rank cannot read its part, or has
    less memory than its share of the weights and the cache needs.
    """
    check_options(options)
    if not isinstance(layout, Layout):
        raise InvalidRequest(f"layout is {argument_forms.shown(layout)}; a Layout is accepted, for example Layout(2, 1)")
    seed, threads = argument_forms.whole("seed", seed, 0, MOST_SEED), _checked_threads(threads)
    own = _device(layout, device)  # the device is checked first, because computing checksums takes a long time
    checkpoint = open_checkpoint(name, seed=seed)
    layout.check(checkpoint.config)
    precision = precision_for(checkpoint, dtype, own)
    if own.type == "cpu":  # ranks on CPUs share the host's memory; each rank checks the memory of its own GPU
        check_memory(checkpoint, own, precision)
    tokenizer = tokenizer_of(checkpoint)  # read before a process is started, because the tokenizer may not belong to the model
    kv_cache_dtype = options.get("kv_cache_dtype")
    check_kv_cache_dtype(kv_cache_dtype, own)
    forward = start_ranks(
        checkpoint,
        layout,
        precision,
        device=device,
        threads=threads,
        progress=progress,
        kv_cache_dtype=kv_cache_dtype,
    )
    return Engine(forward.model, tokenizer, forward=forward, **options)


def start_ranks(
    checkpoint: Checkpoint,
    layout: Layout,
    precision: str,
    *,
    device: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kv_cache_dtype: str | None = None,
) -> ParallelForward:
    """Start the other ranks, read this rank's part, and wait until all are ready. Takes the arguments of `load_parallel`.

    If torchrun has started the ranks, no further process is started, and this rank joins the others. Under torchrun only rank 0
    returns; the other ranks compute until rank 0 is done, then exit.
    """
    layout.check(checkpoint.config)
    threads = _checked_threads(threads)
    if not native.available():
        raise NotAvailable(
            f"ranks on one host communicate through labkit's native library, which cannot be used: {native.why_not()}"
        )
    own_device = _device(layout, device)
    if under_torchrun():
        return _join(checkpoint, layout, precision, own_device, threads, kv_cache_dtype)
    each = threads or max(1, usable_cores() // layout.ranks)
    source: dict[str, Any] = {"model": checkpoint.opened_from, "seed": getattr(checkpoint, "seed", 0)}
    source |= {"precision": precision, "threads": each, "kv_cache_dtype": kv_cache_dtype}
    ranks = LocalRanks(layout, source, device=own_device)
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


def _checked_threads(threads: int | None) -> int | None:
    return None if threads is None else argument_forms.whole("threads", threads, 1, MOST_THREADS)


def _device(layout: Layout, device: str | None) -> torch.device:
    return torchrun_device(layout, device) if under_torchrun() else rank_device(layout, device)


def _join(
    checkpoint: Checkpoint,
    layout: Layout,
    precision: str,
    device: torch.device,
    threads: int | None,
    kv_cache_dtype: str | None,
) -> ParallelForward:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ranks = TorchrunRanks(layout, device)
    try:
        ranks.links.connect()
        each = threads or torch.get_num_threads()  # torchrun sets OMP_NUM_THREADS
        own = RankForward.load(checkpoint, precision, ranks.links, each)
        if ranks.rank == 0:
            return ParallelForward(ranks, own)
        run_tasks(own, ranks.links, ranks.set_step, kv_cache_dtype)
    except RankFailed as error:
        raise ranks.failure() or error from None
    except Exception as error:
        ranks.give_up(f"{type(error).__name__}: {error}")
        raise
    ranks.close()
    raise SystemExit(0)
