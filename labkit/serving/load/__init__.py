"""A load generator for the served model `gptj`: users or arrivals, what each request waited for, and what it adds up to."""

from labkit.serving.load.generator import run_load
from labkit.serving.load.lengths import Lengths
from labkit.serving.load.record import LoadRecord
from labkit.serving.load.settings import LoadSettings
from labkit.serving.load.summary import percentiles, summarise
from labkit.serving.load.times import LoadRun, RequestTimes

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
