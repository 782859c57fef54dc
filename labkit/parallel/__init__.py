"""One model on several ranks: tensor parallel within a layer, pipeline parallel across layers.

The engine sees all ranks together as one forward pass. The model and the scheduler do not know about ranks.
"""

from labkit.parallel.layout import Layout
from labkit.parallel.loader import load_parallel, start_ranks

__all__ = ["Layout", "load_parallel", "start_ranks"]
