"""Contracts: rules of an exercise that do not concern the values of the answer. One such rule is that kernels must do the work;
another is that the function must not keep blocks of its input.

A contract watches one call of a learner's function, without stopping the call or raising an error. After the call, the contract
says which rule of the exercise the function broke.
"""

from labkit.exercises.contracts.held import HeldContract
from labkit.exercises.contracts.kernel_work import KernelContract, Part
from labkit.exercises.contracts.nothing_drawn import NothingDrawn
from labkit.exercises.contracts.own_work import OwnWork
from labkit.exercises.contracts.torch_modes import Dispatches, Functions
from labkit.exercises.contracts.watch import Contract, Watch

__all__ = ["Contract", "Dispatches", "Functions", "HeldContract", "KernelContract", "NothingDrawn", "OwnWork", "Part", "Watch"]
