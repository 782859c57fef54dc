"""The preallocated key-value cache: a pool of slots, one a token, which any sequence may hold in any order.

Knows nothing of sequences: a `Batch` says which slots are whose.
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
    """Keys and values `[num_layers, num_slots, num_heads, head_dim]`; of the layers and heads of a part.

    Pages of a single token: sequences share a common head by naming the same slots, beams are reordered by rewriting
    slot numbers, and no key is ever copied. Memory is left as it was found (on the CPU a page counts when it is first
    written): who reads a slot that nobody wrote may read anything, not-a-numbers too. `held` are the layers and heads of
    the model that are here. Raises `InvalidRequest` for fewer than one slot.
    """

    def __init__(
        self, config: GPTJConfig, num_slots: int, *, device: torch.device, dtype: torch.dtype, part: Part = WHOLE
    ) -> None:
        if num_slots < 1:
            raise InvalidRequest(f"a KV cache of {num_slots} slots was asked for; at least 1 is accepted")
        shape = (len(part.layers(config.num_layers)), num_slots, part.heads(config), config.head_dim)
        self.keys = untouched(shape, dtype, device)
        self.values = untouched(shape, dtype, device)
        self.num_slots = num_slots
        self.held = part.layers(config.num_layers), span(config.num_heads, part.shard, part.shards)
        if device.type == "cpu" and native.available():
            native.advise_large_pages(self.keys)
            native.advise_large_pages(self.values)

    def occupy(self) -> None:
        """Have the system back every page now: on the CPU by writing zeros, over whatever is there; on a GPU it has."""
        if self.keys.device.type == "cpu":
            self.keys.zero_()
            self.values.zero_()

    def write_prefix_prompt(self, slots: Tensor, given: Tensor) -> None:
        """Write the keys and values that a request brings along to `slots` `[prefix_len]` int64, in order.

        `given` `[num_layers, 2, num_heads, prefix_len, head_dim]` holds keys and values of the whole model; the cache takes
        those of its own layers and heads.
        """
        layers, heads = self.held
        own = given[layers.start : layers.stop, :, heads.start : heads.stop]
        keys, values = own.to(self.keys.device, self.keys.dtype).transpose(2, 3).unbind(1)
        where = slots.to(self.keys.device)
        self.keys[:, where] = keys
        self.values[:, where] = values

    @property
    def byte_count(self) -> int:
        """Bytes of keys and values together."""
        return 2 * self.keys.numel() * self.keys.element_size()
