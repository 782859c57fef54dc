"""The captured step of the CPU: a whole forward pass in one native call, with no Python between operations."""

from __future__ import annotations

import ctypes
from ctypes import byref

import torch
from torch import Tensor

from labkit.engine.batch import Batch
from labkit.engine.kv_cache import KVCache
from labkit.engine.linear import Linear
from labkit.engine.model import GPTJ
from labkit.native.library import TYPES, BatchStruct, LayerStruct, ModelStruct, WeightStruct, library, pointer, threads
from labkit.native.packed_weight import PackedWeight, workspace


class NativeForward:
    """Runs a `GPTJ` whose matrices are packed (`weight_store`); called as `GPTJ.forward` is, with logits in float32.

    The hidden state is kept in float32 throughout; products take their inputs in the weight's precision.
    """

    def __init__(self, model: GPTJ) -> None:
        self._kept: list[Tensor] = []  # what the structures point to
        config = model.config
        self._layers = (LayerStruct * config.num_layers)(
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
        self._vocab_size = config.vocab_size
        self._struct = ModelStruct(
            config.hidden_size,
            config.num_layers,
            config.num_heads,
            config.head_dim,
            config.rotary_dim,
            config.intermediate_size,
            config.vocab_size,
            config.layer_norm_epsilon,
            TYPES[model.dtype],
            self._layers,
            self._floats(model.ln_f_weight),
            self._floats(model.ln_f_bias),
            self._weight(model.lm_head),
            pointer(model.wte),
            self._floats(model.sin),
            self._floats(model.cos),
        )

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """As `GPTJ.forward`: logits `[rows, vocab_size]`, float32."""
        table = batch.slot_table if batch.slot_table.stride(1) == 1 else batch.slot_table.contiguous()
        soft = None if batch.soft_embeddings is None else batch.soft_embeddings.float().contiguous()
        logits = torch.empty(len(batch.logit_rows), self._vocab_size)
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
        )
        keys, values = pointer(cache.keys), pointer(cache.values)
        library().lk_forward(
            byref(self._struct), byref(struct), keys, values, cache.num_slots, logits.data_ptr(), workspace().handle, threads()
        )
        return logits

    def _floats(self, tensor: Tensor) -> ctypes.c_void_p:
        self._kept.append(tensor.float().contiguous())
        return ctypes.c_void_p(pointer(self._kept[-1]))

    def _weight(self, linear: Linear) -> WeightStruct:
        assert isinstance(linear.weight, PackedWeight)
        if linear.bias is not None:
            self._kept.append(linear.bias.float().contiguous())
        return linear.weight.struct(None if linear.bias is None else self._kept[-1])
