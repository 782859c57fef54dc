"""Defines a key-value cache in 8 bits.

Each key and each value of a head has one scale, which is computed when the key or value is written.

An int8 cache takes half the memory of a bfloat16 cache or a quarter of the memory of a float32 cache, plus 4 bytes for the
scale of each key and each value of a head.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest, NotAvailable
from labkit.model.batch import Batch
from labkit.model.kv_cache import KVCache
from labkit.model.part import WHOLE, Part
from labkit.native.untouched import untouched
from labkit.weight_formats import quantize_rows_fp8, quantize_rows_int8

DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
"""The formats of a quantized cache, each with its dtype."""


class QuantizedKVCache(KVCache):
    """A cache in 8 bits. `key_scales` and `value_scales` are `[num_layers, num_slots, num_heads]` float32.

    key[l, s, h] = key_scales[l, s, h] * keys[l, s, h]. `name` is a key of `DTYPES`.
    """

    def __init__(
        self, config: GPTJConfig, num_slots: int, *, device: torch.device, name: str, dtype: torch.dtype, part: Part = WHOLE
    ) -> None:
        super().__init__(config, num_slots, device=device, dtype=DTYPES[name], part=part)
        self.name, self.wide_dtype = name, dtype
        shape = self.keys.shape[:3]
        self.key_scales, self.value_scales = untouched(shape, torch.float32, device), untouched(shape, torch.float32, device)

    def occupy(self) -> None:
        """Take all memory from the system now."""
        for tensor in (self.keys, self.values):
            tensor.view(torch.uint8).zero_()
        for tensor in (self.key_scales, self.value_scales):
            tensor.zero_()

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Round keys and values `[tokens, num_heads, head_dim]` and write them to `slots` `[tokens]` int64 of a layer."""
        for cache, scales, x in ((self.keys, self.key_scales, keys), (self.values, self.value_scales, values)):
            rounded, found = (quantize_rows_int8 if self.name == "int8" else quantize_rows_fp8)(x.reshape(-1, x.shape[-1]))
            cache[layer].view(torch.uint8)[slots] = rounded.view(torch.uint8).view(x.shape)
            scales[layer, slots] = found.view(x.shape[:2])

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values `[slots, num_heads, head_dim]` in these slots of a layer, in the model's dtype."""
        keys, values = (
            (cache[layer][slots].float() * scales[layer][slots][..., None]).to(self.wide_dtype)
            for cache, scales in ((self.keys, self.key_scales), (self.values, self.value_scales))
        )
        return keys, values

    def write_prefix_prompt(self, slots: Tensor, given: Tensor) -> None:
        """Round and write the given keys and values of a prefix prompt. The arguments are the same as in `KVCache`."""
        layers, heads = self.held
        own = given[layers.start : layers.stop, :, heads.start : heads.stop].to(self.keys.device).transpose(2, 3)
        for layer in range(len(own)):
            self.write(layer, slots.to(self.keys.device), own[layer, 0], own[layer, 1])

    @property
    def byte_count(self) -> int:
        """How many bytes the keys, values and scales take together."""
        return super().byte_count + 2 * self.key_scales.numel() * 4


def check_kv_cache_dtype(name: str | None, device: torch.device | None = None) -> None:
    """Raise `InvalidRequest` for an unknown cache format, and `NotAvailable` for a device without kernels for the format.

    If no device is given, only the format is checked.
    """
    if name is not None and not (isinstance(name, str) and name in DTYPES):
        raise InvalidRequest(f"kv_cache_dtype is {name!r}; {', '.join(DTYPES)} are accepted, or None for the model's own dtype")
    if name is not None and device is not None and device.type != "cpu":
        raise NotAvailable(f"kv_cache_dtype is {name}, but labkit's GPU kernels read only the model's own dtype; leave it out")


def only_used_slots(batch: Batch) -> tuple[Batch, Tensor]:
    """Give the slots that a batch uses the new numbers 0, 1, ... used - 1.

    Returns the renumbered batch and the old numbers of these slots, `[used]` int64.
    """
    longest = int(batch.lengths.max())
    table = batch.slot_table[:, :longest].long()
    seen = torch.arange(longest, dtype=torch.int64, device=table.device) < batch.lengths[:, None]
    used, numbers = torch.unique(torch.where(seen, table, table[:, :1]), return_inverse=True)
    return dataclasses.replace(batch, slot_table=numbers.int().contiguous()), used
