"""From the stacked QKV product to the attention's query and a longer cache, in one pass."""

from __future__ import annotations

from torch import Tensor

from labkit.native import operations
from labkit.ops.backend import on_native, on_triton
from labkit.ops.registry import operation
from labkit.ops.rotary import rotary


def rotary_cache_write_reference(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """The specification of `rotary_cache_write`, in torch."""
    query, key, value = qkv.view(qkv.shape[0], 3, *keys.shape[1:]).unbind(1)
    sin, cos = sin[positions], cos[positions]
    keys[slot_mapping] = rotary(key, sin, cos)
    values[slot_mapping] = value
    return rotary(query, sin, cos)


@operation
def rotary_cache_write(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """Split `qkv`, turn query and key to their positions, write key and value into the cache; give the query.

    `qkv` `[tokens, 3 * num_heads * head_dim]` (all of query, then key, then value); `positions` `[tokens]` int64;
    `sin`, `cos` `[context_length, rotary_dim / 2]` float32 (`rotary_table`); `keys`, `values` `[num_slots, num_heads,
    head_dim]`, one layer of the cache, written in place at `slot_mapping` `[tokens]` int64. Returns the query `[tokens,
    num_heads, head_dim]` in the dtype of `qkv`. Rotary in GPT-J's interleaved form: see `labkit.ops.rotary`.
    """
    if on_native(qkv):
        return operations.rotary_cache_write(qkv, positions, sin, cos, keys, values, slot_mapping)
    if on_triton(qkv):
        from labkit.ops.kernels.rotary_cache_write import rotary_cache_write_triton

        return rotary_cache_write_triton(qkv, positions, sin, cos, keys, values, slot_mapping)
    return rotary_cache_write_reference(qkv, positions, sin, cos, keys, values, slot_mapping)
