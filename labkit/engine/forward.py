"""The fastest way there is to run a model's forward pass on its device."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from labkit import ops
from labkit.engine.batch import Batch
from labkit.engine.kv_cache import KVCache
from labkit.engine.model import GPTJ
from labkit.native.packed_weight import PackedWeight

Forward = Callable[[Batch, KVCache], Tensor]
"""Runs a batch and gives the logits that it wants, as `GPTJ.forward` does."""


def fastest_forward(model: GPTJ) -> Forward:
    """One native call a pass on the CPU, where the weights are packed; else operation by operation.

    While an operation is swapped (`ops.use`), every pass goes operation by operation, so that the swapped one runs.
    """
    captured = _captured(model)
    if captured is None:
        return model.forward

    def forward(batch: Batch, cache: KVCache) -> Tensor:
        return model.forward(batch, cache) if ops.swapped() else captured(batch, cache)

    return forward


def _captured(model: GPTJ) -> Forward | None:
    if isinstance(model.lm_head.weight, PackedWeight):
        from labkit.engine.native_forward import NativeForward

        return NativeForward(model)
    return None
