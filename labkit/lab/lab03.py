"""Names that only lab 03 imports: the parts of a small GPT-J, `launch` for real processes, measurements, and drawings."""

from labkit.exercises.lab03 import measurements
from labkit.exercises.lab03.counting import share
from labkit.exercises.lab03.pipeline import run_layers
from labkit.exercises.lab03.small_gptj import attend, gelu
from labkit.exercises.pictures import lab03 as pictures
from labkit.launch import launch
from labkit.parallel import Layout

__all__ = ["Layout", "attend", "gelu", "launch", "measurements", "pictures", "run_layers", "share"]
