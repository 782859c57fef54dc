"""Chooses the fastest way to run the forward pass of a model on its device."""

from __future__ import annotations

from labkit.model.cuda_graph import GraphedGPTJ
from labkit.model.forward import Forward
from labkit.model.gptj import GPTJ
from labkit.model.native_forward import NativeForward
from labkit.native.packed_weight import PackedWeight
from labkit.ops.backend import on_triton


def fastest_forward(model: GPTJ, *, padding_slot: int | None = None) -> Forward:
    """Choose how to run `model`.

    On the CPU, a model with weights packed for the native library runs in one native call per pass. On a GPU, decode steps and
    short prefills are replayed from CUDA graphs if `padding_slot` is given. `padding_slot` is a slot that exists in every cache
    and that no sequence may hold. In all other cases, the model itself is returned, and it runs operation by operation.

    While an operation is swapped (`ops.use`), every pass runs operation by operation, so that the swapped function is called.
    """
    if padding_slot is not None and on_triton(model.layers[0].ln_1_weight):
        return GraphedGPTJ(model, padding_slot)
    if isinstance(model.layers[0].qkv.weight, PackedWeight):
        return NativeForward(model)
    return model
