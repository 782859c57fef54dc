"""A load generator for the served model `gptj`: users or arrivals, what each request waited for, and what it adds up to."""

from labkit.serving.stress.generator import run_load
from labkit.serving.stress.lengths import Lengths
from labkit.serving.stress.record import LoadRecord
from labkit.serving.stress.settings import LoadSettings
from labkit.serving.stress.summary import percentiles, summarise
from labkit.serving.stress.times import LoadRun, RequestTimes

__all__ = [
    "Lengths",
    "LoadRecord",
    "LoadRun",
    "LoadSettings",
    "RequestTimes",
    "percentiles",
    "run_load",
    "summarise",
]
