"""The benchmark: several engines on this machine take turns. They run the same prompts with the same weights."""

from labkit.bench.run import run_bench
from labkit.bench.settings import BenchSettings

__all__ = ["BenchSettings", "run_bench"]
