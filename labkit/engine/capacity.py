"""How many slots the cache gets: as many as memory allows, decided once, so that nothing runs out of memory later."""

from __future__ import annotations

from dataclasses import replace

import torch

from labkit.config import GPTJConfig
from labkit.errors import InsufficientResources, InvalidRequest
from labkit.host_memory import available_memory
from labkit.model.part import WHOLE, Part

GPU_SHARE = 0.9
"""Of the GPU memory that is free once the weights are there and the workspace is set aside; the allocator rounds up."""

CPU_SHARE = 0.5
"""Of the host memory that is available; the rest of the machine goes on living."""


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
) -> int:
    """Slots for tokens: `num_slots`, or what `cache_bytes` hold, or what the free memory of `device` holds.

    part: what of the model `device` holds, where others hold the rest.
    The cache has one more, for padding. Left to the memory, never more than `max_batch_size` sequences of a whole context
    need. Raises `InvalidRequest` for fewer than one slot asked for, `InsufficientResources` when not a single one fits, or
    not as many as asked for.
    """
    slot = slot_bytes(config, device, dtype, part)
    free = free_bytes(device)
    asked = asked_slots(config, device, dtype, num_slots=num_slots, cache_bytes=cache_bytes, part=part)
    workspace = workspace_bytes(config, dtype, max_batch_size, max_step_tokens)
    fits = int((free - workspace) * (GPU_SHARE if device.type == "cuda" else CPU_SHARE)) // slot - 1
    if asked is None and fits < 1:
        raise InsufficientResources(
            f"{free / 1e9:.2f} GB are free on {device}, of which a step takes {workspace / 1e9:.2f}: no token's keys and "
            f"values ({slot} bytes) fit. Choose a smaller model or precision, or lower max_batch_size and max_step_tokens"
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
) -> int | None:
    """Slots that the caller asks for, None where it is left to the memory; raises as `num_slots_for`."""
    slot = slot_bytes(config, device, dtype, part)
    asked, free = _asked(num_slots, cache_bytes, slot), free_bytes(device)
    if asked is not None and asked * slot > free:
        raise InsufficientResources(
            f"a KV cache of {asked} tokens takes {asked * slot / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free on {device}; "
            "ask for a smaller one"
        )
    return asked


def slot_bytes(config: GPTJConfig, device: torch.device, dtype: torch.dtype, part: Part = WHOLE) -> int:
    """Bytes of a token's keys and values on a device that holds a part: on a GPU those of the largest stage's part.

    Ranks on the CPU share a host's memory, so there it is those of the whole model.
    """
    if device.type != "cuda":
        return config.kv_bytes_per_token(dtype.itemsize)
    largest = replace(part, stage=0)
    return 2 * len(largest.layers(config.num_layers)) * largest.heads(config) * config.head_dim * dtype.itemsize


def _asked(num_slots: int | None, cache_bytes: int | None, slot: int) -> int | None:
    """Slots that the caller asks for; `slot` is the bytes of one."""
    if num_slots is not None and cache_bytes is not None:
        raise InvalidRequest(f"num_slots {num_slots} and cache_bytes {cache_bytes} were both given; give one of them")
    if num_slots is not None and num_slots < 1:
        raise InvalidRequest(f"num_slots is {num_slots}; at least 1 is accepted")
    if cache_bytes is not None and cache_bytes < 2 * slot:
        raise InvalidRequest(f"cache_bytes is {cache_bytes}; one token of this model takes {slot}, and padding as much")
    return num_slots if cache_bytes is None else cache_bytes // slot - 1


def workspace_bytes(config: GPTJConfig, dtype: torch.dtype, max_batch_size: int, max_step_tokens: int) -> int:
    """An estimate from above of what runs beside the cache: the larger of a step and the scoring of one context.

    A step: for each token the hidden state, its norm, query, key and value, attention, MLP and their float32 forms; for
    each sequence its logits with their double-precision sort (about 48 bytes an entry). Scoring: keys and values of a
    context of its own, and logits in two precisions for every token of it.
    """
    hidden = config.hidden_size
    token = (12 * hidden + 2 * config.intermediate_size) * max(dtype.itemsize, 4)
    step = max_step_tokens * token + max_batch_size * config.vocab_size * 48
    context = config.context_length
    scoring = context * (token + config.kv_bytes_per_token(dtype.itemsize) + config.vocab_size * (dtype.itemsize + 4))
    return max(step, scoring)


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody uses, or of the host that this process may take (limits of a container count)."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()
