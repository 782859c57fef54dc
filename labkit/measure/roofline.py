"""Computes the least time that a GPT-J of a given shape can take, from its bytes, its FLOPs and the machine's ceilings.

This is the roofline model of Williams, Waterman and Patterson (2009): a step takes at least the time to read its bytes, and at
least the time to do its arithmetic.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from labkit.bits_per_weight import BITS
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.measure.ceilings import Ceilings

ELEMENT_BYTES = {name: bits / 8 for name, bits in BITS.items() if name != "fp64"}
"""Bytes per weight in each precision. In int4, 32 weights share a 16-bit scale, and the head is stored in int8."""
CACHE_BYTES = {"fp32": 4}
"""Bytes per number in the KV cache. For precisions that are not listed, a number takes 2 bytes."""


@dataclass(frozen=True)
class Roofline:
    """The bytes, the FLOPs and the least time of a prefill and of a decode step. All numbers are for the whole batch.

    Only bytes that must be read count: all weights, and the keys and values of the cached tokens. The embedding table is left
    out, because a step reads only a few of its rows. A multiply-add counts as two FLOPs. `decode_bound` is "memory" or
    "compute".
    """

    prefill_bytes: int
    prefill_flops: int
    prefill_seconds: float
    decode_bytes: int
    decode_flops: int
    decode_seconds: float
    decode_bound: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for a record."""
        return asdict(self)


def weight_bytes_per_step(config: GPTJConfig, element_bytes: float) -> float:
    """Bytes of weights that one forward pass reads: all parameters except the embedding table."""
    return (config.parameter_count - config.vocab_size * config.hidden_size) * element_bytes


def matmul_flops_per_token(config: GPTJConfig) -> int:
    """FLOPs of the matrix products of one token in all layers, without attention and head."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return 2 * config.num_layers * (4 * hidden * hidden + 2 * hidden * inner)


def head_flops(config: GPTJConfig) -> int:
    """FLOPs to compute the logits of one position."""
    return 2 * config.hidden_size * config.vocab_size


def attention_flops(config: GPTJConfig, queries: int, seen: float) -> float:
    """FLOPs of attention scores and weighted sums in all layers. Each of `queries` positions attends to `seen` positions."""
    return 4 * config.num_layers * config.hidden_size * queries * seen


def roofline(config: GPTJConfig, *, batch: int, length: int, precision: str, ceilings: Ceilings) -> Roofline:
    """Compute the limits of a prefill of `batch` prompts of `length` tokens, and of a decode step with `length` cached tokens.

    If `ceilings` has no FLOPs per second for a precision, such as int8, its highest FLOPs per second are used. Raises
    `InvalidRequest` for a precision without a known byte width and for sizes below 1.
    """
    if precision not in ELEMENT_BYTES or batch < 1 or length < 1:
        raise InvalidRequest(
            f"roofline of precision {precision!r}, batch {batch}, length {length}: precision must be one of "
            f"{', '.join(ELEMENT_BYTES)}, and batch and length at least 1"
        )
    element = ELEMENT_BYTES[precision]
    weights = weight_bytes_per_step(config, element)
    if precision == "int4":  # the head is stored in int8
        weights += config.vocab_size * config.hidden_size * (ELEMENT_BYTES["int8"] - element)
    cached = config.kv_bytes_per_token(CACHE_BYTES.get(precision, 2)) * batch * length
    rates = ceilings.flops_per_second
    read, compute = ceilings.read_bytes_per_second, rates.get(precision) or max(rates.values())
    prefill_flops = batch * (
        length * matmul_flops_per_token(config) + attention_flops(config, length, (length + 1) / 2) + head_flops(config)
    )
    decode_flops = batch * (matmul_flops_per_token(config) + attention_flops(config, 1, length) + head_flops(config))
    decode_bytes = weights + cached
    return Roofline(
        prefill_bytes=int(weights),
        prefill_flops=int(prefill_flops),
        prefill_seconds=max(weights / read, prefill_flops / compute),
        decode_bytes=int(decode_bytes),
        decode_flops=int(decode_flops),
        decode_seconds=max(decode_bytes / read, decode_flops / compute),
        decode_bound="memory" if decode_bytes / read >= decode_flops / compute else "compute",
    )
