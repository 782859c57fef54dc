"""Single operations in the native library, on torch tensors (float32 or bfloat16, on the CPU)."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.native.library import TYPES, library, pointer, threads
from labkit.native.packed_weight import workspace


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """As `labkit.ops.layer_norm`."""
    x, wide = x.contiguous(), (weight.float(), bias.float())
    out = torch.empty_like(x)
    parameters = (pointer(wide[0]), pointer(wide[1]), epsilon, *x.shape)
    library().lk_layer_norm(TYPES[x.dtype], pointer(x), *parameters, pointer(out), threads())
    return out


def residual_layer_norm(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """As `labkit.ops.residual_layer_norm`."""
    residual, attention, mlp = residual.contiguous(), attention.contiguous(), mlp.contiguous()
    wide = weight.float(), bias.float()
    hidden, out = torch.empty_like(residual), torch.empty_like(residual)
    library().lk_residual_layer_norm(
        TYPES[residual.dtype],
        pointer(residual),
        pointer(attention),
        pointer(mlp),
        pointer(wide[0]),
        pointer(wide[1]),
        epsilon,
        *residual.shape,
        pointer(hidden),
        pointer(out),
        threads(),
    )
    return hidden, out


def rotary_cache_write(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """As `labkit.ops.rotary_cache_write`."""
    qkv, sin, cos = qkv.contiguous(), sin.contiguous(), cos.contiguous()
    positions, slot_mapping = positions.contiguous(), slot_mapping.contiguous()
    heads, head_dim = keys.shape[1:]
    query = qkv.new_empty(len(qkv), heads, head_dim)
    library().lk_rotary_cache_write(
        TYPES[qkv.dtype],
        pointer(qkv),
        pointer(positions),
        pointer(sin),
        pointer(cos),
        pointer(keys),
        pointer(values),
        pointer(slot_mapping),
        len(qkv),
        heads,
        head_dim,
        2 * sin.shape[1],
        pointer(query),
        threads(),
    )
    return query


def attention(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """As `labkit.ops.prefill_attention`; sequences of one new token take the form that is best for them."""
    query, starts, lengths = query.contiguous(), starts.contiguous(), lengths.contiguous()
    out = torch.empty_like(query)
    table = slot_table if slot_table.stride(1) == 1 else slot_table.contiguous()
    library().lk_attention(
        TYPES[query.dtype],
        pointer(query),
        pointer(keys),
        pointer(values),
        table.data_ptr(),
        table.stride(0),
        pointer(starts),
        pointer(lengths),
        len(lengths),
        *query.shape[1:],
        pointer(out),
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
    """As `labkit.ops.sample`, without a sort of the vocabulary."""
    logits = logits.float().contiguous()
    numbers = [temperature.double(), top_k, top_p.double(), seeds, samples, positions]
    kept = [number.contiguous() for number in numbers]
    tokens = torch.empty(len(logits), dtype=torch.int64)
    pointers = map(pointer, kept)
    library().lk_sample(pointer(logits), *logits.shape, *pointers, pointer(tokens), workspace().handle, threads())
    return tokens
