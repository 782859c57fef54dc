"""Computes one GPT-J block in float32, in several steps, because the quantizers need the inputs of each matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from labkit.config import GPTJConfig
from labkit.ops import gelu, rotary, rotary_table

MATRICES = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc_in", "attn.out_proj", "mlp.fc_out")
"""The matrices of a block. The inputs of the first four are the output of the layer norm.

The inputs of the last two are computed from the outputs of the first four.
"""
FIRST = MATRICES[:4]


@dataclass
class Block:
    """The dense float32 tensors of a block. The keys are the tensors' names without the prefix `transformer.h.N.`."""

    config: GPTJConfig
    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        self._sin, self._cos = rotary_table(self.config.context_length, self.config.rotary_dim).unbind(0)

    def normed(self, hidden: Tensor) -> Tensor:
        """Compute the input of q, k, v and fc_in from hidden states `[tokens, hidden_size]`."""
        weight, bias = self.tensors["ln_1.weight"], self.tensors["ln_1.bias"]
        return F.layer_norm(hidden, weight.shape, weight, bias, self.config.layer_norm_epsilon)

    def attended(self, normed: Tensor) -> Tensor:
        """Compute the input of out_proj from `normed`: `[tokens, hidden_size]` or `[windows, tokens, hidden_size]`.

        Attention is causal within each window.
        """
        tokens = normed.shape[-2]
        heads = (-1, tokens, self.config.num_heads, self.config.head_dim)
        query, key, value = (F.linear(normed, self.tensors[f"attn.{each}_proj.weight"]).view(heads) for each in "qkv")
        sin, cos = self._sin[:tokens], self._cos[:tokens]
        query, key = rotary(query, sin, cos), rotary(key, sin, cos)
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return found.transpose(1, 2).reshape(normed.shape)

    def inner(self, normed: Tensor) -> Tensor:
        """Compute the input of fc_out from `normed`."""
        return gelu(F.linear(normed, self.tensors["mlp.fc_in.weight"], self.tensors["mlp.fc_in.bias"]))

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the hidden states after the block, `[tokens, hidden_size]` or `[windows, tokens, hidden_size]`."""
        normed = self.normed(hidden)
        attention = F.linear(self.attended(normed), self.tensors["attn.out_proj.weight"])
        mlp = F.linear(self.inner(normed), self.tensors["mlp.fc_out.weight"], self.tensors["mlp.fc_out.bias"])
        return hidden + attention + mlp
