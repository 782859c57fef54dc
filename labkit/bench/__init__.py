"""The benchmark: several engines take turns on this machine and run the same prompts with the same weights."""

from labkit.bench.run import run_bench
from labkit.bench.settings import BenchSettings

__all__ = ["BenchSettings", "run_bench"]
