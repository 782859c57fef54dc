"""Stress-tests the served model `gptj`: sends many requests, times every token, and summarises the times."""

from labkit.serving.stress.generator import run_stress
from labkit.serving.stress.lengths import Lengths
from labkit.serving.stress.record import StressRecord
from labkit.serving.stress.settings import StressSettings
from labkit.serving.stress.summary import percentiles, summarise
from labkit.serving.stress.times import RequestTimes, StressRun

__all__ = [
    "Lengths",
    "RequestTimes",
    "StressRecord",
    "StressRun",
    "StressSettings",
    "percentiles",
    "run_stress",
    "summarise",
]
