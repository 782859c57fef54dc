"""The benchmark: several engines run the same prompts with the same weights in turn on this machine."""

from labkit.bench.run import run_bench
from labkit.bench.settings import BenchSettings

__all__ = ["BenchSettings", "run_bench"]
