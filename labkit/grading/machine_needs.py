"""Says what an exercise needs besides a CPU, and whether this machine has it."""

from __future__ import annotations

from collections.abc import Callable

from labkit.environment import Machine, describe
from labkit.exercises.exercise import Exercise
from labkit.ops.backend import has_triton
from labkit.serving.server.install import find_server

NEEDS: dict[str, tuple[str, Callable[[Machine], bool]]] = {
    "cuda": ("an NVIDIA GPU", lambda machine: bool(machine.gpus)),
    "two_gpus": ("two NVIDIA GPUs", lambda machine: len(machine.gpus) >= 2),
    "triton": ("the package triton", lambda machine: has_triton()),
    "triton_server": (
        "a Triton Inference Server (`labkit serve --install` gets one)",
        lambda machine: find_server() is not None,
    ),
}
"""For each name that `Exercise.requires` may contain: a phrase for what is needed, and a function that says whether a machine
has it.
"""


def missing(exercise: Exercise, machine: Machine | None = None) -> str:
    """A phrase for what the machine lacks for this exercise, such as "needs an NVIDIA GPU"; "" if it lacks nothing."""
    if not exercise.requires:
        return ""
    here = machine or describe()
    lacking = [NEEDS[need][0] for need in exercise.requires if not NEEDS[need][1](here)]
    return f"needs {' and '.join(lacking)}" if lacking else ""
