"""An example to measure for each fused operation.

An example has arguments that are large enough for memory traffic to matter, a function that computes the operation in separate
steps, and a fused function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit import native, ops
from labkit.ops.decode_attention import decode_attention_reference
from labkit.ops.gelu import gelu
from labkit.ops.residual_layer_norm import residual_layer_norm_reference
from labkit.ops.rotary_cache_write import rotary_cache_write_reference

HIDDEN = 4096
HEADS = 16
LENGTH = 256
"""The number of tokens that each sequence has in the cache, in the attention example."""


@dataclass(frozen=True)
class Example:
    """One call of an operation: its arguments, its FLOPs, and the smallest number of bytes that it can move.

    `apart` computes the operation in separate steps, `together` is the fused function.

    `form` describes `together` in words, and `bars` are the names of both functions in figures. If the two functions return
    different answers, `right` computes the right answer for `together`.
    """

    name: str
    title: str
    args: tuple[Any, ...]
    flops: int
    least_bytes: int
    apart: Callable[..., Any]
    together: Callable[..., Any]
    form: str
    bars: tuple[str, str] = ("apart", "together (your kernel)")
    right: Callable[..., Any] | None = None


def example(name: str, tokens: int, device: torch.device) -> Example:
    """Make the example for an operation, in float32. Its tensors grow with `tokens`."""
    make = {
        "residual_layer_norm": _residual,
        "rotary_cache_write": _rotary,
        "decode_attention": _attention,
        "linear_gelu": _gelu,
        "int8": _int8,
    }[name]
    return make(tokens, device)


def _own(name: str) -> tuple[Callable[..., Any], str]:
    """The fused form of an operation on a CPU, and its name.

    The fused form is labkit's own function or, if labkit has none on this machine, a function made of torch operations.
    """
    if native.available():
        return getattr(ops, name), "labkit's C++ form of your kernel"
    return TORCH_FORMS[name]


def norm_in_place(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Compute `ops.residual_layer_norm` with sums in place, which saves one temporary tensor."""
    hidden = torch.add(attention, mlp).add_(residual)
    return hidden, F.layer_norm(hidden, hidden.shape[1:], weight, bias, epsilon)


def rotary_by_complex_product(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """Compute `ops.rotary_cache_write` with complex numbers.

    Each pair becomes a complex number, and one multiplication rotates it.
    """
    query, key, value = qkv.view(len(qkv), 3, *keys.shape[1:]).unbind(1)
    turn = torch.complex(cos[positions], sin[positions])[:, None, None]
    both = torch.stack((query, key), dim=1)
    pairs = both[..., : 2 * sin.shape[1]].reshape(*both.shape[:-1], -1, 2)
    both[..., : 2 * sin.shape[1]] = torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(-2)
    keys[slot_mapping], values[slot_mapping] = both[:, 1], value
    return both[:, 0]


def attention_by_torch(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
    """Compute `ops.decode_attention`: gather the keys and values, then run torch's fused attention."""
    table = slot_table[:, : int(lengths.max())]
    seen = torch.arange(table.shape[1], device=query.device) < lengths[:, None]
    table = torch.where(seen, table, table[:, :1])
    key, value = keys[table].transpose(1, 2), values[table].transpose(1, 2)
    return F.scaled_dot_product_attention(query[:, :, None], key, value, attn_mask=seen[:, None, None]).squeeze(2)


TORCH_FORMS: dict[str, tuple[Callable[..., Any], str]] = {
    "residual_layer_norm": (norm_in_place, "torch, in place"),
    "rotary_cache_write": (rotary_by_complex_product, "torch, complex numbers"),
    "decode_attention": (attention_by_torch, "torch, fused attention"),
}
"""For each fused operation, a function made only of torch operations, and its name."""


def _residual(tokens: int, device: torch.device) -> Example:
    three = tuple(torch.randn(tokens, HIDDEN, device=device) for _ in range(3))
    args = *three, torch.randn(HIDDEN, device=device), torch.randn(HIDDEN, device=device), 1e-5
    flops, least = 10 * tokens * HIDDEN, 4 * (5 * tokens + 2) * HIDDEN
    forms = residual_layer_norm_reference, *_own("residual_layer_norm")
    return Example("residual_layer_norm", "Sum and layer norm", args, flops, least, *forms)


def _rotary(tokens: int, device: torch.device) -> Example:
    head_dim, rotary_dim = HIDDEN // HEADS, HIDDEN // HEADS // 4
    sin, cos = ops.rotary_table(2048, rotary_dim, device).unbind(0)
    positions = torch.randint(2048, (tokens,), device=device)
    cache = [torch.zeros(2 * tokens, HEADS, head_dim, device=device) for _ in range(2)]
    slot_mapping = torch.randperm(2 * tokens, device=device)[:tokens]
    args = torch.randn(tokens, 3 * HIDDEN, device=device), positions, sin, cos, *cache, slot_mapping
    flops, least = 6 * tokens * HEADS * rotary_dim, 4 * tokens * (6 * HIDDEN + rotary_dim)
    forms = rotary_cache_write_reference, *_own("rotary_cache_write")
    return Example("rotary_cache_write", "Rotary and cache write", args, flops, least, *forms)


def _attention(tokens: int, device: torch.device) -> Example:
    sequences, head_dim = max(1, tokens // 8), 64
    slots = sequences * LENGTH
    cache = [torch.randn(slots, HEADS, head_dim, device=device) for _ in range(2)]
    table = torch.randperm(slots, device=device).int().view(sequences, LENGTH)
    lengths = torch.full((sequences,), LENGTH, dtype=torch.int32, device=device)
    args = torch.randn(sequences, HEADS, head_dim, device=device), *cache, table, lengths
    flops, least = 4 * sequences * LENGTH * HEADS * head_dim, 4 * 2 * sequences * (LENGTH + 1) * HEADS * head_dim
    forms = decode_attention_reference, *_own("decode_attention")
    return Example("decode_attention", "Decode attention", args, flops, least, *forms)


def _gelu(tokens: int, device: torch.device) -> Example:
    size, outs = 512, 2048
    weight = torch.randn(outs, size, device=device) / size**0.5
    args = torch.randn(tokens, size, device=device), weight, torch.randn(outs, device=device)
    packed = _packed(weight)

    def apart(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return gelu(x @ weight.T + bias)

    def together(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return gelu(torch.addmm(bias, x, weight.T)) if packed is None else packed.multiply(x, bias, gelu=True)

    form = "torch, only the bias fused" if packed is None else "labkit's C++ form of your kernel"
    flops, least = 2 * tokens * size * outs, 4 * (size * outs + tokens * (size + outs))
    return Example("linear_gelu", "Product, bias and GELU", args, flops, least, apart, together, form)


def _int8(tokens: int, device: torch.device) -> Example:
    size = 2048
    dense = torch.randn(size, size, device=device)
    weight = ops.Int8Weight.quantize(dense)
    packed = _packed(weight) if device.type == "cpu" else None
    args = torch.randn(1, size, device=device), weight.values, weight.scales

    def apart(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        return F.linear(x, dense)

    def together(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        if packed is not None:
            return cast(Tensor, packed.multiply(x))
        product: Tensor = torch._weight_int8pack_mm(x.bfloat16(), values, scales.bfloat16())
        return product.float()

    def right(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        return F.linear(x, values.float() * scales[:, None])

    form = "torch, for a bf16 input" if packed is None else "labkit's C++ form of your kernel"
    forms, bars = (apart, together, form), ("fp32 weight (torch)", "int8 weight (your kernel)")
    return Example("int8", "A weight in fp32 and in int8", args, 2 * size * size, size * size + 12 * size, *forms, bars, right)


def _packed(weight: Tensor | ops.Int8Weight) -> Any:
    """The weight in the memory layout of labkit's C++ matrix products; None if this machine cannot run them."""
    if not native.available() or (isinstance(weight, Tensor) and weight.is_cuda):
        return None
    from labkit.native.packed_weight import PackedWeight

    return PackedWeight(weight)
