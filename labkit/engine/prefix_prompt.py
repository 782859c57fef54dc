"""Keys and values that a request brings along, put where its first positions lie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache


def write_prefix_prompt(forward: Forward, cache: KVCache, slots: npt.ArrayLike, given: Tensor) -> None:
    """Write `given` `[num_layers, 2, num_heads, prefix_len, head_dim]` (keys, values) to `prefix_len` slots, in order.

    A forward whose caches are not all in this process has a `write_prefix_prompt` of its own.
    """
    write: Callable[[KVCache, Tensor, Tensor], None] = getattr(forward, "write_prefix_prompt", put_prefix_prompt)
    write(cache, torch.from_numpy(np.asarray(slots, np.int64)), given)


def put_prefix_prompt(cache: KVCache, slots: Tensor, given: Tensor) -> None:
    """Write them to this process's cache: all layers and heads, or those of its part."""
    layers, heads = cache.held
    own = given[layers.start : layers.stop, :, heads.start : heads.stop]
    keys, values = own.to(cache.keys.device, cache.keys.dtype).transpose(2, 3).unbind(1)
    where = slots.to(cache.keys.device)
    cache.keys[:, where] = keys
    cache.values[:, where] = values
