"""Defines GPT-J with the operations of `labkit.ops`. A forward pass runs a flat batch of new tokens.

The model computes logits. It knows nothing about sampling, text, or the source of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from labkit import ops
from labkit.config import GPTJConfig
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache
from labkit.model.linear import Linear
from labkit.model.part import WHOLE, Part
from labkit.model.quantized_kv_cache import QuantizedKVCache, only_used_slots
from labkit.model.side_stream import SideStream
from labkit.precision import precision_name
from labkit.torch_state import inference


@dataclass(frozen=True)
class Layer:
    """The weights of one block; `qkv` stacks the query, key and value projections, `[3 * hidden_size, hidden_size]`."""

    ln_1_weight: Tensor
    ln_1_bias: Tensor
    qkv: Linear
    out_proj: Linear
    fc_in: Linear
    fc_out: Linear


class GPTJ(Forward):
    """The model's weights and its forward pass. `precision` names the format in which the matrices are stored.

    `part` says which part of a model this is. A part without the first layers has no `wte` (None); a part without the last
    layers has no `ln_f_weight`, `ln_f_bias` and `lm_head`. If other processes hold the rest of each layer, `add_up(x)` returns
    the sum of `x` over all these processes.
    """

    def __init__(
        self,
        config: GPTJConfig,
        wte: Tensor | None,
        layers: Sequence[Layer],
        ln_f: tuple[Tensor, Tensor] | None,
        lm_head: Linear | None,
        part: Part = WHOLE,
    ) -> None:
        self.config = config
        self.part = part
        self.wte = wte
        self.layers = tuple(layers)
        self.ln_f_weight = ln_f[0] if ln_f else None
        self.ln_f_bias = ln_f[1] if ln_f else None
        self.lm_head = lm_head
        self.precision = precision_name(self.dtype)
        self.sin, self.cos = ops.rotary_table(config.context_length, config.rotary_dim, self.device).unbind(0)
        self.add_up: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def from_tensors(
        cls,
        config: GPTJConfig,
        read: Callable[[str], Tensor],
        store: Callable[[str, Tensor], ops.Weight] = lambda name, dense: dense,
        part: Part = WHOLE,
        matrix: Callable[[str, Sequence[str]], ops.Weight] | None = None,
    ) -> GPTJ:
        """Build a model from `read(name)`, which returns the part's share of a tensor by its Hugging Face name.

        `read` returns each tensor on the model's device and in its dtype. `store(name, dense)` returns the weight to keep for a
        matrix, by default the matrix itself; `name` is the linear layer: qkv, out_proj, fc_in, fc_out or lm_head. If `matrix`
        is given, `matrix(name, tensors)` returns the weight to keep for the stacked matrices with these Hugging Face names;
        `read` and `store` are then not called for matrices of linear layers.
        """

        def linear(layer: str, *modules: str, bias: bool = False, gelu: bool = False) -> Linear:
            names = [f"{module}.weight" for module in modules]
            weight = matrix(layer, names) if matrix else store(layer, _stacked(read, names))
            return Linear(weight, read(f"{modules[0]}.bias") if bias else None, gelu=gelu)

        # The largest matrix is read first, because memory still has the most room for both its dense and its packed form.
        head = linear("lm_head", "lm_head", bias=True) if part.last else None
        layers = []
        for index in part.layers(config.num_layers):
            prefix = f"transformer.h.{index}."
            layers.append(
                Layer(
                    read(f"{prefix}ln_1.weight"),
                    read(f"{prefix}ln_1.bias"),
                    linear("qkv", *(f"{prefix}attn.{each}_proj" for each in ("q", "k", "v"))),
                    linear("out_proj", f"{prefix}attn.out_proj"),
                    linear("fc_in", f"{prefix}mlp.fc_in", bias=True, gelu=True),
                    linear("fc_out", f"{prefix}mlp.fc_out", bias=part.shard == 0),
                )
            )
        return cls(
            config,
            read("transformer.wte.weight") if part.first else None,
            layers,
            (read("transformer.ln_f.weight"), read("transformer.ln_f.bias")) if part.last else None,
            head,
            part,
        )

    def with_layers(self, layers: Sequence[Layer], lm_head: Linear | None = None) -> GPTJ:
        """Return a copy of the model with other blocks, and with another head if `lm_head` is given."""
        other = copy(self)
        other.layers = tuple(layers)
        other.lm_head = lm_head or self.lm_head
        return other

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.layers[0].ln_1_weight.device

    @property
    def batch_device(self) -> torch.device:
        """The device on which a batch must be. It is the device that holds the weights."""
        return self.device

    @property
    def survives_fork(self) -> bool:
        """Whether the weights are on the CPU, so that a forked child process can use them."""
        return self.device.type != "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the layer norms' weights, in which the model computes."""
        return self.layers[0].ln_1_weight.dtype

    def new_cache(self, num_slots: int, kv_cache_dtype: str | None = None) -> KVCache:
        """Make a KV cache for this part of the model, in the model's dtype or in the 8-bit format "int8" or "fp8"."""
        if kv_cache_dtype is None:
            return KVCache(self.config, num_slots, device=self.device, dtype=self.dtype, part=self.part)
        return QuantizedKVCache(
            self.config, num_slots, device=self.device, name=kv_cache_dtype, dtype=self.dtype, part=self.part
        )

    @inference
    def forward(
        self, batch: Batch, cache: KVCache, hidden: Tensor | None = None, *, beside: SideStream | None = None
    ) -> Tensor:
        """Run the batch's new tokens and write their keys and values to `cache`. Returns logits `[rows, vocab_size]`.

        A part without the first layers takes `hidden` `[tokens, hidden_size]`, the result of the part before it. A part
        without the last layers returns its hidden state instead of logits, and a shard returns the logits of its share of
        the vocabulary. If `beside` is given, attention runs on this stream, at the same time as the MLP.

        The pass runs operation by operation. All faster ways to run a pass must compute the same result. Only this method
        calls swapped operations (`ops.use`).
        """
        if hidden is None:
            hidden = self._embed(batch)
        epsilon = self.config.layer_norm_epsilon
        normed = ops.layer_norm(hidden, *self._norm(0), epsilon)
        for index, layer in enumerate(self.layers):
            attend = partial(self._attend, layer, normed, cache, index, batch)
            attention = beside.fork(attend) if beside else attend()
            mlp = layer.fc_out(layer.fc_in(normed))
            if beside:
                beside.join()
            if self.add_up is not None:  # attention and MLP are parallel in GPT-J, so one sum is enough for both
                attention, mlp = self.add_up(attention + mlp), torch.zeros_like(mlp)
            if index + 1 == len(self.layers) and self.lm_head is None:
                return hidden + attention + mlp
            hidden, normed = ops.residual_layer_norm(hidden, attention, mlp, *self._norm(index + 1), epsilon)
        assert self.lm_head is not None
        return self.lm_head(normed[batch.logit_rows])

    def _attend(self, layer: Layer, normed: Tensor, cache: KVCache, index: int, batch: Batch) -> Tensor:
        """Compute the attention of a block, from the normed input to the output projection `[tokens, hidden_size]`."""
        qkv, slots = layer.qkv(normed), batch.slot_mapping
        if isinstance(cache, QuantizedKVCache):
            shape = (batch.num_tokens, *cache.keys.shape[2:])
            keys, values = qkv.new_empty(shape), qkv.new_empty(shape)
            slots = torch.arange(batch.num_tokens, dtype=torch.int64, device=qkv.device)
        else:
            keys, values = cache.keys[index], cache.values[index]
        query = ops.rotary_cache_write(qkv, batch.positions, self.sin, self.cos, keys, values, slots)
        if isinstance(cache, QuantizedKVCache):
            cache.write(index, batch.slot_mapping, keys, values)
            batch, used = only_used_slots(batch)
            keys, values = cache.read(index, used)
        attended = self._attention(query, keys, values, batch)
        return layer.out_proj(attended.view(batch.num_tokens, -1))

    def _embed(self, batch: Batch) -> Tensor:
        assert self.wte is not None, "a part without the embedding needs the hidden state of the part before it"
        held = self.part.vocabulary(self.config.vocab_size)
        if self.part.shards == 1:
            hidden = ops.embedding(batch.token_ids, self.wte)
        else:
            rows = batch.token_ids - held.start
            outside = (rows < 0) | (rows >= len(held))
            hidden = ops.embedding(rows.masked_fill(outside, 0), self.wte).masked_fill(outside[:, None], 0.0)
        if self.add_up is not None:
            hidden = self.add_up(hidden)
        if batch.soft_rows is not None and batch.soft_embeddings is not None:
            hidden = hidden.index_copy(0, batch.soft_rows, batch.soft_embeddings.to(hidden.dtype))
        return hidden

    def _norm(self, index: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the layer norm before block `index` of this part, or of the final norm after all blocks."""
        if index < len(self.layers):
            return self.layers[index].ln_1_weight, self.layers[index].ln_1_bias
        assert self.ln_f_weight is not None
        assert self.ln_f_bias is not None
        return self.ln_f_weight, self.ln_f_bias

    @staticmethod
    def _attention(query: Tensor, keys: Tensor, values: Tensor, batch: Batch) -> Tensor:
        first = batch.num_decodes
        if batch.is_decode:
            return ops.decode_attention(query, keys, values, batch.slot_table, batch.lengths)
        if first == 0:
            return ops.prefill_attention(query, keys, values, batch.slot_table, batch.starts, batch.lengths)
        decoded = ops.decode_attention(query[:first], keys, values, batch.slot_table[:first], batch.lengths[:first])
        starts = batch.starts[first:] - first  # the decodes come before the prefills and have one token each
        rest = batch.slot_table[first:], starts, batch.lengths[first:]
        return torch.cat((decoded, ops.prefill_attention(query[first:], keys, values, *rest)))


def _stacked(read: Callable[[str], Tensor], names: Sequence[str]) -> Tensor:
    """Read matrices of the same shape and stack them. Each matrix is copied into its place as soon as it is read."""
    first = read(names[0])
    if len(names) == 1:
        return first
    rows = len(first)
    whole = first.new_empty(len(names) * rows, first.shape[1])
    whole[:rows] = first
    del first
    for index, name in enumerate(names[1:], 1):
        whole[index * rows : (index + 1) * rows] = read(name)
    return whole
