"""GPT-J over `ops`: its layers, its KV cache, the batch of one forward pass, and the ways to run that pass."""

from labkit.model.batch import Batch, FixedBatches
from labkit.model.gptj import GPTJ
from labkit.model.kv_cache import KVCache
from labkit.model.linear import Linear

__all__ = ["GPTJ", "Batch", "FixedBatches", "KVCache", "Linear"]
