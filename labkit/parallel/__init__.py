"""One model on several ranks: tensor parallel within a layer, pipeline parallel across layers.

For the engine, all ranks together compute one forward pass; the model and the scheduler do not know about ranks.
"""

from labkit.parallel.layout import Layout
from labkit.parallel.loader import load_parallel, start_ranks

__all__ = ["Layout", "load_parallel", "start_ranks"]
