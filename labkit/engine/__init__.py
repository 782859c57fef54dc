"""The inference engine: runs a GPT-J model for many requests at once, samples tokens, streams text, and scores texts."""

from labkit.engine.bootstrap import Estimate
from labkit.engine.engine import Engine
from labkit.engine.engine_options import EngineOptions
from labkit.engine.engine_stats import EngineStats
from labkit.engine.evaluate import Evaluation, Quality, compare, evaluate
from labkit.engine.loader import load
from labkit.engine.outputs import Completion, RequestOutput, TokenEvent, TokenLogprob
from labkit.engine.sampling_params import SamplingParams

__all__ = [
    "Completion",
    "Engine",
    "EngineOptions",
    "EngineStats",
    "Estimate",
    "Evaluation",
    "Quality",
    "RequestOutput",
    "SamplingParams",
    "TokenEvent",
    "TokenLogprob",
    "compare",
    "evaluate",
    "load",
]
