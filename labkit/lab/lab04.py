"""Names that only lab 04 imports: a server for the learner, measurements under load, and drawings."""

from labkit.exercises.lab04 import measurements, served
from labkit.exercises.lab04.deployment import deploy
from labkit.exercises.lab04.streaming import prompt_inputs
from labkit.exercises.pictures import lab04 as pictures

__all__ = ["deploy", "measurements", "pictures", "prompt_inputs", "served"]
