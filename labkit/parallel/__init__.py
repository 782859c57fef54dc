"""One model on several ranks: tensor parallel within a layer, pipeline parallel across layers.

The engine sees one forward pass; the model and the scheduler know nothing of ranks.
"""

from labkit.parallel.layout import Layout
from labkit.parallel.loader import load_parallel, start

__all__ = ["Layout", "load_parallel", "start"]
