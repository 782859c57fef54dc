"""The benchmark: several engines run the same prompts with the same weights, in turn, on this machine."""

from labkit.bench.run import BenchSettings, run_bench

__all__ = ["BenchSettings", "run_bench"]
