"""Demands of an exercise besides right values: that kernels do the work, for example, or that blocks are not kept.

A contract watches one call of a learner's function. It stops nothing and raises nothing; afterwards it says in words how
the function broke the rules of the exercise.
"""

from labkit.exercises.contracts.held import HeldContract
from labkit.exercises.contracts.kernel_work import KernelContract, Part
from labkit.exercises.contracts.nothing_drawn import NothingDrawn
from labkit.exercises.contracts.own_work import OwnWork
from labkit.exercises.contracts.torch_modes import Dispatches, Functions
from labkit.exercises.contracts.watch import Contract, Watch

__all__ = ["Contract", "Dispatches", "Functions", "HeldContract", "KernelContract", "NothingDrawn", "OwnWork", "Part", "Watch"]
