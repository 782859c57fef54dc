"""Defines the preallocated key-value cache, which is a pool of slots.

A slot holds the keys and values of one token. Any sequence can use any slots, in any order.

The cache knows nothing about sequences: a `Batch` says which slots each sequence uses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit import native
from labkit.checkpoints.split import span
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.model.part import WHOLE, Part
from labkit.native.untouched import untouched


class KVCache:
    """Keys and values `[num_layers, num_slots, num_heads, head_dim]` for the layers and heads of a part of the model.

    Sequences with a common beginning share the slots of that beginning. Beam search reorders its beams by rewriting slot
    numbers. So no key is ever copied. The memory is not initialized, so a slot that was never written can hold anything, even
    NaN. (On the CPU, the system provides memory only when it is first written.) `held`: the layers and heads of the model that
    this cache holds. Raises `InvalidRequest` if `num_slots` is less than 1.
    """

    def __init__(
        self, config: GPTJConfig, num_slots: int, *, device: torch.device, dtype: torch.dtype, part: Part = WHOLE
    ) -> None:
        if num_slots < 1:
            raise InvalidRequest(f"num_slots is {num_slots}; a KV cache has at least 1 slot")
        shape = (len(part.layers(config.num_layers)), num_slots, part.heads(config), config.head_dim)
        self.keys = untouched(shape, dtype, device)
        self.values = untouched(shape, dtype, device)
        self.num_slots = num_slots
        self.held = part.layers(config.num_layers), span(config.num_heads, part.shard, part.shards)
        if device.type == "cpu" and native.available():
            native.advise_large_pages(self.keys)
            native.advise_large_pages(self.values)

    def occupy(self) -> None:
        """Take all memory from the system now.

        On the CPU, this writes zeros everywhere. On a GPU, the memory has already been taken.
        """
        if self.keys.device.type == "cpu":
            self.keys.zero_()
            self.values.zero_()

    def write_prefix_prompt(self, slots: Tensor, given: Tensor) -> None:
        """Write the given keys and values of a prefix prompt to `slots` `[prefix_len]` int64, in order.

        `given` `[num_layers, 2, num_heads, prefix_len, head_dim]` holds keys and values of the whole model; the cache takes the
        keys and values of its own layers and heads.
        """
        layers, heads = self.held
        own = given[layers.start : layers.stop, :, heads.start : heads.stop]
        keys, values = own.to(self.keys.device, self.keys.dtype).transpose(2, 3).unbind(1)
        where = slots.to(self.keys.device)
        self.keys[:, where] = keys
        self.values[:, where] = values

    @property
    def byte_count(self) -> int:
        """How many bytes the keys and values take together."""
        return 2 * self.keys.numel() * self.keys.element_size()
