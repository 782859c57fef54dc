"""Names that only lab 02 imports: measurements, functions that replace operations in the engine, and drawings."""

from labkit.exercises.lab02 import climb, measurements, step_launches, swaps
from labkit.exercises.pictures import lab02 as pictures
from labkit.ops.backend import has_triton

__all__ = ["climb", "has_triton", "measurements", "pictures", "step_launches", "swaps"]
