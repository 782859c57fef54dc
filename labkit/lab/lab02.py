"""More names for the cells of lab 02: measurements, functions that replace operations in the engine, drawings."""

from labkit.exercises.lab02 import climb, measurements, step_launches, swaps
from labkit.exercises.pictures import lab02 as pictures
from labkit.ops.backend import has_triton

__all__ = ["climb", "has_triton", "measurements", "pictures", "step_launches", "swaps"]
