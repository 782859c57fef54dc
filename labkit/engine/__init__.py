"""The inference engine: a GPT-J over `ops`, its cache, sampling, streaming, and the scoring of texts."""

from labkit.engine.batch import Batch, FixedBatches
from labkit.engine.engine import Engine
from labkit.engine.evaluate import Evaluation, evaluate
from labkit.engine.kv_cache import KVCache
from labkit.engine.linear import Linear
from labkit.engine.loader import load
from labkit.engine.model import GPTJ
from labkit.engine.options import EngineOptions
from labkit.engine.outputs import Completion, RequestOutput, TokenEvent, TokenLogprob
from labkit.engine.sampling_params import SamplingParams
from labkit.engine.stats import EngineStats

__all__ = [
    "GPTJ",
    "Batch",
    "Completion",
    "Engine",
    "EngineOptions",
    "EngineStats",
    "Evaluation",
    "FixedBatches",
    "KVCache",
    "Linear",
    "RequestOutput",
    "SamplingParams",
    "TokenEvent",
    "TokenLogprob",
    "evaluate",
    "load",
]
