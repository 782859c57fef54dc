"""The preallocated key-value cache: one slot a running sequence, the running ones always in front.

Knows nothing of requests; a slot is a row, and its length says how many positions of it are filled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest


class KVCache:
    """Keys and values `[num_layers, slots, num_heads, capacity, head_dim]`, and `lengths` `[slots]` int64.

    Raises `InvalidRequest` for a capacity beyond the model's context.
    """

    def __init__(self, config: GPTJConfig, slots: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> None:
        if slots < 1 or not 1 <= capacity <= config.context_length:
            raise InvalidRequest(
                f"a KV cache of {slots} slots of {capacity} tokens was asked for; at least 1 slot and 1 to "
                f"{config.context_length} tokens (the model's context) are accepted"
            )
        shape = (config.num_layers, slots, config.num_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(slots, dtype=torch.int64, device=device)
        self.slots = slots
        self.capacity = capacity

    @property
    def byte_count(self) -> int:
        """Bytes of keys and values together."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def write_prompt(self, layer: int, slot: int, start: int, key: Tensor, value: Tensor) -> None:
        """Put `key`, `value` `[new, num_heads, head_dim]` at positions `start`... of one slot."""
        stop = start + key.shape[0]
        self.keys[layer, slot, :, start:stop] = key.transpose(0, 1)
        self.values[layer, slot, :, start:stop] = value.transpose(0, 1)

    def write_tokens(self, layer: int, positions: Tensor, key: Tensor, value: Tensor) -> None:
        """Put one token a slot: `key`, `value` `[batch, num_heads, head_dim]` at `positions` `[batch]` of slots 0...."""
        rows = torch.arange(key.shape[0], device=key.device)
        self.keys[layer, rows, :, positions] = key
        self.values[layer, rows, :, positions] = value

    def copy_slot(self, source: int, target: int) -> None:
        """Make `target` hold what `source` holds (for several samples of a prompt, or to close a gap)."""
        length = int(self.lengths[source])
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.lengths[target] = length
