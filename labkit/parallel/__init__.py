"""One model on several ranks: tensor parallel within a layer, pipeline parallel across layers. And any function on several.

Knows the engine as what calls a forward pass; the model and the scheduler know nothing of ranks. `launch` knows no model.
"""

from labkit.parallel.launch import Each, Launched, RankRaisedError, launch, shut_down
from labkit.parallel.layout import Layout
from labkit.parallel.load import load_parallel, start

__all__ = ["Each", "Launched", "Layout", "RankRaisedError", "launch", "load_parallel", "shut_down", "start"]
