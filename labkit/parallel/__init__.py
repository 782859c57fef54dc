"""Runs one model on several ranks, with tensor parallelism within a layer and pipeline parallelism across layers.

To the engine, all ranks together look like one forward pass. The model and the scheduler do not know about ranks.
"""

from labkit.parallel.layout import Layout
from labkit.parallel.loader import load_parallel, start_ranks

__all__ = ["Layout", "load_parallel", "start_ranks"]
