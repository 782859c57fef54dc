"""Names that only lab 06 imports: models in memory and on disk, training runs, measurements, and drawings."""

from labkit.exercises.lab05 import tensors, tradeoff
from labkit.exercises.lab06 import everything, models, quality, speculation, training, zeros
from labkit.exercises.pictures import lab06 as pictures

__all__ = [
    "everything",
    "models",
    "pictures",
    "quality",
    "speculation",
    "tensors",
    "tradeoff",
    "training",
    "zeros",
]
