"""Runs single operations of the native library on torch tensors in float32 or bfloat16 on the CPU.

Each function takes the same arguments as the operation with the same name in `labkit.ops`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.native.library import library, native_type, pointer, rows_pointer, threads
from labkit.native.packed_weight import workspace

_FLOAT, _LONG, _INT = torch.float32, torch.int64, torch.int32


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Run `labkit.ops.layer_norm` in the native library."""
    x, wide = x.contiguous(), (weight.float(), bias.float())
    out = torch.empty_like(x)
    parameters = [pointer(each, _FLOAT, x.shape[1:]) for each in wide]
    source, target = pointer(x, x.dtype, x.shape), pointer(out, x.dtype, x.shape)
    library().lk_layer_norm(native_type(x), source, *parameters, epsilon, *x.shape, target, threads())
    return out


def residual_layer_norm(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Run `labkit.ops.residual_layer_norm` in the native library."""
    dtype, shape = residual.dtype, residual.shape
    inputs = [tensor.contiguous() for tensor in (residual, attention, mlp)]
    wide = weight.float(), bias.float()
    hidden, out = torch.empty_like(inputs[0]), torch.empty_like(inputs[0])
    library().lk_residual_layer_norm(
        native_type(residual),
        *(pointer(each, dtype, shape) for each in inputs),
        *(pointer(each, _FLOAT, shape[1:]) for each in wide),
        epsilon,
        *shape,
        pointer(hidden, dtype, shape),
        pointer(out, dtype, shape),
        threads(),
    )
    return hidden, out


def rotary_cache_write(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """Run `labkit.ops.rotary_cache_write` in the native library."""
    qkv, sin, cos = qkv.contiguous(), sin.contiguous(), cos.contiguous()
    positions, slot_mapping = positions.contiguous(), slot_mapping.contiguous()
    tokens, (heads, head_dim) = len(qkv), keys.shape[1:]
    query = qkv.new_empty(tokens, heads, head_dim)
    library().lk_rotary_cache_write(
        native_type(qkv),
        pointer(qkv, qkv.dtype, (tokens, 3 * heads * head_dim)),
        pointer(positions, _LONG, (tokens,)),
        pointer(sin, _FLOAT, sin.shape),
        pointer(cos, _FLOAT, sin.shape),
        pointer(keys, qkv.dtype, keys.shape),
        pointer(values, qkv.dtype, keys.shape),
        pointer(slot_mapping, _LONG, (tokens,)),
        tokens,
        heads,
        head_dim,
        2 * sin.shape[1],
        pointer(query, qkv.dtype, query.shape),
        threads(),
    )
    return query


def decode_attention(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
    """Run `labkit.ops.decode_attention` in the native library."""
    starts = torch.arange(len(query) + 1, dtype=torch.int32, device="cpu")
    return prefill_attention(query, keys, values, slot_table, starts, lengths)


def prefill_attention(
    query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    """Run `labkit.ops.prefill_attention` in the native library. Sequences with one new token run the faster decode kernel."""
    query, starts, lengths = query.contiguous(), starts.contiguous(), lengths.contiguous()
    out = torch.empty_like(query)
    sequences, (heads, head_dim) = len(lengths), query.shape[1:]
    table = slot_table if slot_table.stride(1) == 1 else slot_table.contiguous()
    kept = len(keys), heads, head_dim
    library().lk_attention(
        native_type(query),
        pointer(query, query.dtype, query.shape),
        pointer(keys, query.dtype, kept),
        pointer(values, query.dtype, kept),
        *rows_pointer(table, _INT, sequences),
        pointer(starts, _INT, (sequences + 1,)),
        pointer(lengths, _INT, (sequences,)),
        sequences,
        heads,
        head_dim,
        pointer(out, query.dtype, query.shape),
        workspace().handle,
        threads(),
    )
    return out


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    samples: Tensor,
    positions: Tensor,
) -> Tensor:
    """Run `labkit.ops.sample` in the native library, which does not sort the vocabulary."""
    logits = logits.float().contiguous()
    rows, vocab_size = logits.shape
    numbers = [temperature.double(), top_k, top_p.double(), seeds, samples, positions]
    kept = [number.contiguous() for number in numbers]
    tokens = torch.empty(rows, dtype=_LONG, device="cpu")
    dtypes = (torch.float64, _LONG, torch.float64, _LONG, _LONG, _LONG)
    pointers = [pointer(number, dtype, (rows,)) for number, dtype in zip(kept, dtypes, strict=True)]
    source, target = pointer(logits, _FLOAT, logits.shape), pointer(tokens, _LONG, (rows,))
    library().lk_sample(source, rows, vocab_size, *pointers, target, workspace().handle, threads())
    return tokens
