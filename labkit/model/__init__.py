"""Defines GPT-J with `labkit.ops`: its layers, its KV cache, the batch of a forward pass, and several ways to run the pass."""

from labkit.model.batch import Batch
from labkit.model.fixed_batches import FixedBatches
from labkit.model.forward import Forward
from labkit.model.gptj import GPTJ
from labkit.model.kv_cache import KVCache
from labkit.model.linear import Linear

__all__ = ["GPTJ", "Batch", "FixedBatches", "Forward", "KVCache", "Linear"]
