"""Runs a whole forward pass on the CPU in one native call, without Python between the operations."""

from __future__ import annotations

import contextlib
import ctypes
from ctypes import byref
from typing import Protocol

import torch
from torch import Tensor

from labkit import ops
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from labkit.model.gptj import GPTJ
from labkit.model.kv_cache import KVCache
from labkit.model.linear import Linear
from labkit.model.quantized_kv_cache import QuantizedKVCache
from labkit.native.library import (
    E4M3,
    INT8,
    BatchStruct,
    LayerStruct,
    ModelStruct,
    WeightStruct,
    library,
    native_type,
    pointer,
    rows_pointer,
    threads,
    torch_on_one_thread,
)
from labkit.native.packed_weight import PackedWeight, workspace

_FLOAT, _LONG, _INT = torch.float32, torch.int64, torch.int32
_CACHE_TYPES = {"int8": INT8, "fp8": E4M3}
"""The native library's number for each format of a quantized cache."""


class AddsUp(Protocol):
    """A group of processes that hold the shards of a layer.

    A native pass uses such a group to add up the results of the processes.
    """

    @property
    def native_add_up(self) -> tuple[ctypes.c_void_p, int | None]:
        """The address of a C function of the type `add_up`, and the first argument for this function."""

    def fail(self, status: int, collective: str) -> None:
        """Raise `RankFailed` after a call of `native_add_up` has returned the nonzero `status`."""


class NativeForward(Forward):
    """Runs a `GPTJ` whose matrices are packed (`weight_store`).

    The hidden state and the logits are float32; each matrix product takes its inputs in the weight's precision. group: the
    processes that hold the other shards of the layers. num_threads: the number of threads of a native call, by default the
    number that torch uses.
    """

    def __init__(self, model: GPTJ, group: AddsUp | None = None, num_threads: int | None = None) -> None:
        self._kept: list[Tensor] = []  # keeps alive the tensors to which the structures point
        config, part = model.config, model.part
        held = part.vocabulary(config.vocab_size)
        width, angles = (config.hidden_size,), (config.context_length, config.rotary_dim // 2)
        self._cache_shape = len(model.layers), part.heads(config), config.head_dim
        self._group, self._threads = group, num_threads
        self._layers = (LayerStruct * len(model.layers))(
            *(
                LayerStruct(
                    self._floats(layer.ln_1_weight, width),
                    self._floats(layer.ln_1_bias, width),
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
            native_type(model.layers[0].ln_1_weight),
            self._layers,
            self._floats(model.ln_f_weight, width),
            self._floats(model.ln_f_bias, width),
            self._weight(model.lm_head),
            pointer(model.wte, model.dtype, (len(held), config.hidden_size)),
            held.start,
            len(held),
            self._floats(model.sin, angles),
            self._floats(model.cos, angles),
            *((None, None) if group is None else group.native_add_up),
            part.shard == 0,
        )

    def limited_threads(self) -> contextlib.AbstractContextManager[None]:
        """Let torch use one thread inside the block. The native calls still use `num_threads` threads."""
        return torch_on_one_thread()

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Run the batch in one native call, or operation by operation while an operation is swapped (`ops.use`)."""
        return self._model.forward(batch, cache) if ops.swapped() else self.run(batch, cache)

    def run(self, batch: Batch, cache: KVCache, hidden: Tensor | None = None) -> Tensor:
        """Run the batch in one native call.

        Returns logits `[rows, vocab_size]` float32. A part without the head returns its hidden state, also in float32.

        A part without the embedding takes `hidden` `[tokens, hidden_size]`, float32, from the part before it. Raises
        `RankFailed` if a process of the group does not take part.
        """
        tokens, sequences, rows = batch.num_tokens, batch.num_sequences, len(batch.logit_rows)
        soft = None if batch.soft_embeddings is None else batch.soft_embeddings.float().contiguous()
        soft_count, flat = 0 if soft is None else len(soft), (tokens, self._model.config.hidden_size)
        table = batch.slot_table if batch.slot_table.stride(1) == 1 else batch.slot_table.contiguous()
        headless = self._model.lm_head is None
        out = torch.empty(flat, dtype=_FLOAT, device="cpu") if headless else None
        logits = torch.empty(0 if headless else rows, self._vocab_size, dtype=_FLOAT, device="cpu")
        struct = BatchStruct(
            tokens,
            sequences,
            rows,
            soft_count,
            pointer(batch.token_ids, _LONG, (tokens,)),
            pointer(batch.positions, _LONG, (tokens,)),
            pointer(batch.slot_mapping, _LONG, (tokens,)),
            pointer(batch.starts, _INT, (sequences + 1,)),
            *rows_pointer(table, _INT, sequences),
            pointer(batch.lengths, _INT, (sequences,)),
            pointer(batch.logit_rows, _LONG, (rows,)),
            pointer(batch.soft_rows, _LONG, (soft_count,)),
            pointer(soft, _FLOAT, (soft_count, flat[1])),
            pointer(hidden, _FLOAT, flat),
            pointer(out, _FLOAT, flat),
        )
        kept = self._cache_shape[0], cache.num_slots, *self._cache_shape[1:]
        key_scales = value_scales = None
        self._struct.quantized_cache = 0
        if isinstance(cache, QuantizedKVCache):
            self._struct.quantized_cache = _CACHE_TYPES[cache.name]
            key_scales, value_scales = cache.key_scales, cache.value_scales
        status = library().lk_forward(
            byref(self._struct),
            byref(struct),
            pointer(cache.keys, self._model.dtype if key_scales is None else cache.keys.dtype, kept),
            pointer(cache.values, self._model.dtype if key_scales is None else cache.keys.dtype, kept),
            pointer(key_scales, _FLOAT, kept[:3]),
            pointer(value_scales, _FLOAT, kept[:3]),
            cache.num_slots,
            pointer(logits, _FLOAT, logits.shape),
            workspace().handle,
            self._threads or threads(),
        )
        if status and self._group is not None:
            self._group.fail(status, "all_reduce")
        return logits if out is None else out

    def _floats(self, tensor: Tensor | None, shape: tuple[int, ...]) -> ctypes.c_void_p:
        if tensor is None:
            return ctypes.c_void_p(None)
        self._kept.append(tensor.float().contiguous())
        return ctypes.c_void_p(pointer(self._kept[-1], _FLOAT, shape))

    def _weight(self, linear: Linear | None) -> WeightStruct:
        if linear is None:
            return WeightStruct()
        assert isinstance(linear.weight, PackedWeight)
        if linear.bias is not None:
            self._kept.append(linear.bias.float().contiguous())
        return linear.weight.struct(None if linear.bias is None else self._kept[-1])
