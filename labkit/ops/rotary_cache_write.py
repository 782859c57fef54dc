"""Split the stacked QKV product, apply the rotary position embedding and write keys and values to the cache, in one pass."""

from __future__ import annotations

from torch import Tensor

from labkit.native import operations
from labkit.ops.registry import operation
from labkit.ops.rotary import rotary


def rotary_cache_write_reference(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """The reference implementation of `rotary_cache_write` in PyTorch."""
    query, key, value = qkv.view(qkv.shape[0], 3, *keys.shape[1:]).unbind(1)
    sin, cos = sin[positions], cos[positions]
    keys[slot_mapping] = rotary(key, sin, cos)
    values[slot_mapping] = value
    return rotary(query, sin, cos)


@operation(native=operations.rotary_cache_write)
def rotary_cache_write(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """Split `qkv`, rotate query and key by their positions, write key and value into the cache; return the query.

    `qkv` is `[tokens, 3 * num_heads * head_dim]`: each row holds all heads of the query, then all heads of the key, then all
    heads of the value. `positions` is `[tokens]` int64. `sin` and `cos` are `[context_length, rotary_dim / 2]` float32, from
    `rotary_table`. `keys` and `values` `[num_slots, num_heads, head_dim]` are one layer of the cache; they are written in place
    at `slot_mapping` `[tokens]` int64. Returns the query `[tokens, num_heads, head_dim]` in the dtype of `qkv`.
    `labkit.ops.rotary` defines the rotation.
    """
    return rotary_cache_write_reference(qkv, positions, sin, cos, keys, values, slot_mapping)
