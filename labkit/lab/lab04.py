"""More names for the cells of lab 04: a server for the learner, measurements under load, drawings."""

from labkit.exercises.lab04 import measurements
from labkit.exercises.lab04.deployment import deploy
from labkit.exercises.lab04.streaming import prompt_inputs
from labkit.exercises.pictures import lab04 as pictures

__all__ = ["deploy", "measurements", "pictures", "prompt_inputs"]
