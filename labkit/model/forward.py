"""The fastest way there is to run a model's forward pass on its device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from labkit import ops
from labkit.forked import is_forked_child
from labkit.model.batch import Batch
from labkit.model.gptj import GPTJ
from labkit.model.kv_cache import KVCache
from labkit.native.packed_weight import PackedWeight
from labkit.ops.backend import on_triton

Forward = Callable[[Batch, KVCache], Tensor]
"""Runs a batch and gives the logits that it wants, as `GPTJ.forward` does."""


def steps_in_flight(forward: Forward) -> int:
    """How many passes a forward works on at a time: its `steps_in_flight`, if it has such."""
    count: int = getattr(forward, "steps_in_flight", 1)
    return count


def submit(forward: Forward, batch: Batch, cache: KVCache) -> Callable[[], Tensor]:
    """Begin a pass, and give what is called later to have its logits.

    A forward that can begin one before the last has come to its end has a `submit` of its own; once that returns, the
    batch's tensors may change.
    """
    begin: Callable[[Batch, KVCache], Callable[[], Tensor]] | None = getattr(forward, "submit", None)
    return begin(batch, cache) if begin is not None else partial(forward, batch, cache)


def occupy(forward: Forward, cache: KVCache) -> None:
    """Take the cache's memory now, by the forward's own `occupy` where parts of the cache are elsewhere."""
    take: Callable[[KVCache], None] = getattr(forward, "occupy", KVCache.occupy)
    take(cache)


def batch_device(forward: Forward, model: GPTJ) -> torch.device:
    """Where a forward wants its batches: its `batch_device`, if it has such; else where the model is."""
    device: torch.device = getattr(forward, "batch_device", model.device)
    return device


@contextlib.contextmanager
def threads_of(forward: Forward) -> Iterator[None]:
    """Let torch use the forward's `num_threads` in the block, if it has such; one in a forked child.

    Where other ranks compute on this machine's other cores, a second thread here would take one from them, and spin on it
    for milliseconds behind every parallel operation.
    """
    count = 1 if is_forked_child() else getattr(forward, "num_threads", None)
    before = torch.get_num_threads()
    if count is None:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_forward(model: GPTJ, *, padding_slot: int | None = None) -> Forward:
    """One native call a pass on the CPU, where the weights are packed; else operation by operation.

    On a GPU, decode steps and short prefills are replayed from CUDA graphs if there is a `padding_slot`: a slot of every cache
    that it will be given, which no sequence may hold. While an operation is swapped (`ops.use`), every pass goes operation by
    operation, so that the swapped one runs.
    """
    if padding_slot is not None and on_triton(model.layers[0].ln_1_weight):
        from labkit.model.cuda_graph import GraphedGPTJ

        return GraphedGPTJ(model, padding_slot).forward
    captured = _captured(model)
    if captured is None:
        return model.forward

    def forward(batch: Batch, cache: KVCache) -> Tensor:
        return model.forward(batch, cache) if ops.swapped() else captured(batch, cache)

    return forward


def _captured(model: GPTJ) -> Forward | None:
    if isinstance(model.layers[0].qkv.weight, PackedWeight):
        from labkit.model.native_forward import NativeForward

        return NativeForward(model)
    return None
