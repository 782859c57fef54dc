"""Keys and values that a request brings along, put where its first positions lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor, from_numpy

from labkit.engine.kv_cache import KVCache


def write_prefix_prompt(cache: KVCache, slots: npt.ArrayLike, given: Tensor) -> None:
    """Write `given` `[num_layers, 2, num_heads, prefix_len, head_dim]` (keys, values) to `prefix_len` slots, in order."""
    keys, values = given.to(cache.keys.device, cache.keys.dtype).transpose(2, 3).unbind(1)
    where = from_numpy(np.asarray(slots, np.int64)).to(cache.keys.device)
    cache.keys[:, where] = keys
    cache.values[:, where] = values
