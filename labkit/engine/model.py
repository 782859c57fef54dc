"""GPT-J, written once over `ops`: prefill of whole prompts and decode of one token a sequence.

Computes logits; knows nothing of sampling, of text or of where its weights came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit import ops
from labkit.config import GPTJConfig
from labkit.engine.kv_cache import KVCache
from labkit.engine.linear import Linear


@dataclass(frozen=True)
class Layer:
    """The weights of one block; `qkv` stacks the query, key and value projections, `[3 * hidden_size, hidden_size]`."""

    ln_1_weight: Tensor
    ln_1_bias: Tensor
    qkv: Linear
    out_proj: Linear
    fc_in: Linear
    fc_out: Linear


class GPTJ:
    """The model's weights and its two ways of computing: `prefill` and `decode`."""

    def __init__(
        self,
        config: GPTJConfig,
        wte: Tensor,
        layers: Sequence[Layer],
        ln_f: tuple[Tensor, Tensor],
        lm_head: Linear,
    ) -> None:
        self.config = config
        self.wte = wte
        self.layers = tuple(layers)
        self.ln_f_weight, self.ln_f_bias = ln_f
        self.lm_head = lm_head
        self.sin, self.cos = ops.rotary_table(config.context_length, config.rotary_dim, wte.device).unbind(0)

    @classmethod
    def from_tensors(cls, config: GPTJConfig, read: Callable[[str], Tensor]) -> GPTJ:
        """Build from a function that gives the tensor of a Hugging Face name, on its device and in its dtype."""
        layers = []
        for index in range(config.num_layers):
            prefix = f"transformer.h.{index}."
            rows = config.hidden_size
            first = read(f"{prefix}attn.q_proj.weight")
            qkv = first.new_empty(3 * rows, config.hidden_size)
            qkv[:rows] = first
            del first
            qkv[rows : 2 * rows] = read(f"{prefix}attn.k_proj.weight")
            qkv[2 * rows :] = read(f"{prefix}attn.v_proj.weight")
            layers.append(
                Layer(
                    read(f"{prefix}ln_1.weight"),
                    read(f"{prefix}ln_1.bias"),
                    Linear(qkv),
                    Linear(read(f"{prefix}attn.out_proj.weight")),
                    Linear(read(f"{prefix}mlp.fc_in.weight"), read(f"{prefix}mlp.fc_in.bias")),
                    Linear(read(f"{prefix}mlp.fc_out.weight"), read(f"{prefix}mlp.fc_out.bias")),
                )
            )
        return cls(
            config,
            read("transformer.wte.weight"),
            layers,
            (read("transformer.ln_f.weight"), read("transformer.ln_f.bias")),
            Linear(read("lm_head.weight"), read("lm_head.bias")),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.wte.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are and the model computes in."""
        return self.wte.dtype

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Tensor], cache: KVCache, slots: Sequence[int], *, all_logits: bool = False) -> Tensor:
        """Run whole prompts (1-d int64 tensors, any lengths) and fill their slots of the cache.

        The tokens of all prompts travel as one flat batch, so nothing is padded. Returns the logits behind the last
        token of each prompt, `[prompts, vocab_size]`, or with `all_logits` those behind every token,
        `[all tokens, vocab_size]`.
        """
        lengths = [len(prompt) for prompt in prompts]
        ends = torch.tensor(lengths).cumsum(0)
        spans = [(slot, int(end) - length, int(end)) for slot, length, end in zip(slots, lengths, ends, strict=True)]
        positions = torch.cat([torch.arange(length, device=self.device) for length in lengths])
        hidden = ops.embedding(torch.cat(tuple(prompts)).to(self.device), self.wte)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            attended = torch.empty_like(query)
            for slot, begin, end in spans:
                cache.write_prompt(layer, slot, 0, key[begin:end], value[begin:end])
                heads_first = key[begin:end].transpose(0, 1), value[begin:end].transpose(0, 1)
                attended[begin:end] = ops.prefill_attention(query[begin:end], *heads_first)
            return attended

        hidden = self._blocks(hidden, positions, attend)
        for slot, length in zip(slots, lengths, strict=True):
            cache.lengths[slot] = length
        return self._logits(hidden if all_logits else hidden[ends.to(self.device) - 1])

    @torch.inference_mode()
    def decode(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """Run one token of each of the sequences in slots 0, 1, ...: `[batch]` int64 to logits `[batch, vocab_size]`."""
        batch = len(token_ids)
        positions = cache.lengths[:batch].clone()
        cache.lengths[:batch] += 1
        lengths = cache.lengths[:batch]
        longest = int(lengths.max())
        hidden = ops.embedding(token_ids.to(self.device), self.wte)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.write_tokens(layer, positions, key, value)
            keys, values = cache.keys[layer, :batch, :, :longest], cache.values[layer, :batch, :, :longest]
            return ops.decode_attention(query, keys, values, lengths)

        return self._logits(self._blocks(hidden, positions, attend))

    def _blocks(self, hidden: Tensor, positions: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        tokens = hidden.shape[0]
        heads = (tokens, 3, self.config.num_heads, self.config.head_dim)
        sin, cos = self.sin[positions], self.cos[positions]
        for index, layer in enumerate(self.layers):
            normed = ops.layer_norm(hidden, layer.ln_1_weight, layer.ln_1_bias, self.config.layer_norm_epsilon)
            query, key, value = layer.qkv(normed).view(heads).unbind(1)  # each [tokens, num_heads, head_dim]
            attended = attend(index, ops.rotary(query, sin, cos), ops.rotary(key, sin, cos), value)
            mlp = layer.fc_out(ops.gelu(layer.fc_in(normed)))
            hidden = ops.add_residual(hidden, layer.out_proj(attended.reshape(tokens, -1)), mlp)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        normed = ops.layer_norm(hidden, self.ln_f_weight, self.ln_f_bias, self.config.layer_norm_epsilon)
        return self.lm_head(normed)
