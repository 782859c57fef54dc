"""Decides, before the KV cache is made, how many slots fit into the free memory, so that memory does not run out later."""

from __future__ import annotations

from dataclasses import replace

import torch

from labkit.config import GPTJConfig
from labkit.errors import InsufficientResources, InvalidRequest
from labkit.host_memory import available_memory
from labkit.model.part import WHOLE, Part

GPU_SHARE = 0.9
"""The cache's share of the GPU memory that weights and workspace leave free.

The allocator, which rounds sizes up, needs the rest.
"""

CPU_SHARE = 0.5
"""The cache's share of the available host memory. The rest is left to other programs."""


def num_slots_for(
    config: GPTJConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    max_batch_size: int,
    max_step_tokens: int,
    num_slots: int | None = None,
    cache_bytes: int | None = None,
    part: Part = WHOLE,
    quantized: bool = False,
    extra_slot_bytes: int = 0,
) -> int:
    """The number of tokens that the cache holds: `num_slots`, or what fits into `cache_bytes` or the free memory of `device`.

    The cache needs one more slot, for padding. If the free memory decides, the cache is never larger than `max_batch_size`
    sequences of full length need. part: the part of the model that `device` holds. quantized: whether the cache holds 8-bit
    numbers (`QuantizedKVCache`). extra_slot_bytes: the bytes of a token in the cache of a draft model. The draft's cache must
    fit, too, but `num_slots` and `cache_bytes` count only the model's own cache.

    Raises `InvalidRequest` if fewer than one slot is asked for, and `InsufficientResources` if no slot fits, or if fewer slots
    fit than were asked for.
    """
    slot = slot_bytes(config, device, dtype, part, quantized=quantized)
    free = free_bytes(device)
    asked = asked_slots(config, device, dtype, num_slots=num_slots, cache_bytes=cache_bytes, part=part, quantized=quantized)
    workspace = workspace_bytes(config, dtype, max_batch_size, max_step_tokens)
    fits = int((free - workspace) * (GPU_SHARE if device.type == "cuda" else CPU_SHARE))
    fits = fits // (slot + extra_slot_bytes) - 1
    if asked is None and fits < 1:
        raise InsufficientResources(
            f"{free / 1e9:.2f} GB are free on {device}, and a step needs {workspace / 1e9:.2f} GB of them, so the keys and "
            f"values of even one token ({slot} bytes) do not fit. Choose a smaller model or precision, or lower "
            "max_batch_size and max_step_tokens"
        )
    return asked or min(fits, max_batch_size * config.context_length)


def asked_slots(
    config: GPTJConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_slots: int | None,
    cache_bytes: int | None,
    part: Part = WHOLE,
    quantized: bool = False,
) -> int | None:
    """The number of slots that the caller asks for; None if the free memory decides. Raises the errors of `num_slots_for`."""
    slot = slot_bytes(config, device, dtype, part, quantized=quantized)
    asked, free = _asked(num_slots, cache_bytes, slot), free_bytes(device)
    if asked is not None and asked * slot > free:
        raise InsufficientResources(
            f"a KV cache of {asked} tokens takes {asked * slot / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free on "
            f"{device}; give a smaller num_slots or cache_bytes"
        )
    return asked


def slot_bytes(
    config: GPTJConfig, device: torch.device, dtype: torch.dtype, part: Part = WHOLE, *, quantized: bool = False
) -> int:
    """The bytes of one token's keys and values on a device that holds a part of the model.

    On a GPU, the layers of the largest stage are counted. On the CPU, all layers of the model are counted, because all ranks
    share the host's memory.
    """
    if quantized:  # one byte for each number, and one float32 scale for each head of each key and value
        return config.kv_bytes_per_token(1) + 2 * config.num_layers * config.num_heads * 4
    if device.type != "cuda":
        return config.kv_bytes_per_token(dtype.itemsize)
    largest = replace(part, stage=0)
    return 2 * len(largest.layers(config.num_layers)) * largest.heads(config) * config.head_dim * dtype.itemsize


def _asked(num_slots: int | None, cache_bytes: int | None, slot: int) -> int | None:
    """The number of slots that the caller asks for, where one slot takes `slot` bytes; None if the caller does not say."""
    if num_slots is not None and cache_bytes is not None:
        raise InvalidRequest(f"num_slots {num_slots} and cache_bytes {cache_bytes} were both given; give one of them")
    if num_slots is not None and num_slots < 1:
        raise InvalidRequest(f"num_slots is {num_slots}; at least 1 is accepted")
    if cache_bytes is not None and cache_bytes < 2 * slot:
        raise InvalidRequest(
            f"cache_bytes is {cache_bytes}; at least {2 * slot} is accepted: {slot} for one token of this model, and "
            f"{slot} for padding"
        )
    return num_slots if cache_bytes is None else cache_bytes // slot - 1


def workspace_bytes(config: GPTJConfig, dtype: torch.dtype, max_batch_size: int, max_step_tokens: int) -> int:
    """An upper estimate of the bytes that a step (or scoring a text of full length) needs in addition to weights and cache.

    Scoring needs its own cache for the text, and logits in two precisions for each token.
    """
    context = config.context_length
    logits = context * config.vocab_size * (dtype.itemsize + 4)
    scoring = step_bytes(config, dtype, 0, context) + context * config.kv_bytes_per_token(dtype.itemsize) + logits
    return max(step_bytes(config, dtype, max_batch_size, max_step_tokens), scoring)


def step_bytes(config: GPTJConfig, dtype: torch.dtype, sequences: int, tokens: int) -> int:
    """An upper estimate of the bytes that a step of `tokens` tokens needs in addition to weights and cache.

    For each token, a step needs the hidden state, its normalized copy, the query, key and value, the tensors of attention and
    MLP, and float32 copies of all these. For each sequence, a step needs the logits, and memory to sort them in double
    precision (about 48 bytes per entry).
    """
    token = (12 * config.hidden_size + 2 * config.intermediate_size) * max(dtype.itemsize, 4)
    return tokens * token + sequences * config.vocab_size * 48


def free_bytes(device: torch.device) -> int:
    """The free bytes of a GPU, or the bytes of host memory that this process can still use within its container's limits."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()
