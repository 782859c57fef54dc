"""What the cells of lab 04 use besides the checks: a server of the learner's own, measurements under load, drawings."""

from labkit.exercises.lab04 import drawings, measurements
from labkit.exercises.lab04.deployment import deploy
from labkit.exercises.lab04.streaming import prompt_inputs

__all__ = ["deploy", "drawings", "measurements", "prompt_inputs"]
