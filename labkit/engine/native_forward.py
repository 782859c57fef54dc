"""The captured step of the CPU: a whole forward pass in one native call, with no Python between operations."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Protocol

import torch
from torch import Tensor

from labkit.engine.batch import Batch
from labkit.engine.kv_cache import KVCache
from labkit.engine.linear import Linear
from labkit.engine.model import GPTJ
from labkit.native.library import TYPES, BatchStruct, LayerStruct, ModelStruct, WeightStruct, library, pointer, threads
from labkit.native.packed_weight import PackedWeight, workspace


class AddsUp(Protocol):
    """A group of those who hold the shards of a layer: what a native pass calls to add up, and what it says of a failure."""

    @property
    def native_add_up(self) -> tuple[ctypes.c_void_p, int | None]:
        """A function of the C interface's `add_up`, and its first argument."""

    def fail(self, status: int, collective: str) -> None:
        """Raise `RankFailed` for a status that is not 0."""


class NativeForward:
    """Runs a `GPTJ` whose matrices are packed (`weight_store`); called as `GPTJ.forward` is, with logits in float32.

    The hidden state is kept in float32 throughout; products take their inputs in the weight's precision. group: of those
    who hold the other shards of its layers. num_threads: left out, torch's number.
    """

    def __init__(self, model: GPTJ, group: AddsUp | None = None, num_threads: int | None = None) -> None:
        self._kept: list[Tensor] = []  # what the structures point to
        config, part = model.config, model.part
        held = part.vocabulary(config.vocab_size)
        self._group, self._threads = group, num_threads
        self._layers = (LayerStruct * len(model.layers))(
            *(
                LayerStruct(
                    self._floats(layer.ln_1_weight),
                    self._floats(layer.ln_1_bias),
                    self._weight(layer.qkv),
                    self._weight(layer.out_proj),
                    self._weight(layer.fc_in),
                    self._weight(layer.fc_out),
                )
                for layer in model.layers
            )
        )
        self._model = model
        self._vocab_size = len(held)
        self._struct = ModelStruct(
            config.hidden_size,
            len(model.layers),
            part.heads(config),
            config.head_dim,
            config.rotary_dim,
            config.intermediate_size // part.shards,
            len(held),
            config.layer_norm_epsilon,
            TYPES[model.dtype],
            self._layers,
            self._floats(model.ln_f_weight),
            self._floats(model.ln_f_bias),
            self._weight(model.lm_head),
            pointer(model.wte),
            held.start,
            len(held),
            self._floats(model.sin),
            self._floats(model.cos),
            *((None, None) if group is None else group.native_add_up),
            part.shard == 0,
        )

    def __call__(self, batch: Batch, cache: KVCache, hidden: Tensor | None = None) -> Tensor:
        """As `GPTJ.forward`: logits `[rows, vocab_size]`, or the hidden state of a part without the head, float32.

        Raises `RankFailed` when a member of the group is missing.
        """
        table = batch.slot_table if batch.slot_table.stride(1) == 1 else batch.slot_table.contiguous()
        soft = None if batch.soft_embeddings is None else batch.soft_embeddings.float().contiguous()
        headless = self._model.lm_head is None
        out = torch.empty(batch.num_tokens, self._model.config.hidden_size) if headless else None
        logits = torch.empty(0 if headless else len(batch.logit_rows), self._vocab_size)
        struct = BatchStruct(
            batch.num_tokens,
            batch.num_sequences,
            len(batch.logit_rows),
            0 if soft is None else len(soft),
            pointer(batch.token_ids),
            pointer(batch.positions),
            pointer(batch.slot_mapping),
            pointer(batch.starts),
            table.data_ptr(),
            table.stride(0),
            pointer(batch.lengths),
            pointer(batch.logit_rows),
            pointer(batch.soft_rows),
            pointer(soft),
            pointer(hidden),
            pointer(out),
        )
        space = pointer(cache.keys), pointer(cache.values), cache.num_slots
        status = library().lk_forward(
            byref(self._struct), byref(struct), *space, logits.data_ptr(), workspace().handle, self._threads or threads()
        )
        if status and self._group is not None:
            self._group.fail(status, "all_reduce")
        return logits if out is None else out

    def _floats(self, tensor: Tensor | None) -> ctypes.c_void_p:
        if tensor is None:
            return ctypes.c_void_p(None)
        self._kept.append(tensor.float().contiguous())
        return ctypes.c_void_p(pointer(self._kept[-1]))

    def _weight(self, linear: Linear | None) -> WeightStruct:
        if linear is None:
            return WeightStruct()
        assert isinstance(linear.weight, PackedWeight)
        if linear.bias is not None:
            self._kept.append(linear.bias.float().contiguous())
        return linear.weight.struct(None if linear.bias is None else self._kept[-1])
