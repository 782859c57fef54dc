"""What the cells of lab 03 use besides the checks: the parts of a small GPT-J, real processes, measurements, drawings."""

from labkit.exercises.lab03 import drawings, measurements
from labkit.exercises.lab03.counting import share
from labkit.exercises.lab03.pipeline import run_layers
from labkit.exercises.lab03.small_gptj import attend, gelu
from labkit.launch import launch
from labkit.parallel import Layout

__all__ = ["Layout", "attend", "drawings", "gelu", "launch", "measurements", "run_layers", "share"]
