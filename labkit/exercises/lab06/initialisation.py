"""Exercise 6.7: a student begins with every second layer of its teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws


def teacher_tensors(draws: Draws, layers: int) -> dict[str, Tensor]:
    """Small tensors that have the names of a GPT-J's tensors, in a random order."""
    names = [
        f"transformer.h.{layer}.{part}"
        for layer in range(layers)
        for part in ("ln_1.weight", "attn.q_proj.weight", "mlp.fc_in.bias")
    ]
    names += ["transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight", "lm_head.bias"]
    draws.pick.shuffle(names)
    return {name: draws.normal(3) for name in names}


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    pairs = [(8, 4), (12, 6), (12, 3), (4, 2), (6, 1), (24, 12)]
    return [
        Case(f"a teacher of {teacher} layers, a student of {layers}", (teacher_tensors(draws, teacher), teacher, layers))
        for teacher, layers in pairs
    ]


def _tensors_and_memory(case: Case, value: Any) -> Any:
    """Return the tensors of an answer, and whether any of them shares memory with a tensor of the teacher."""
    if not isinstance(value, dict):
        return value
    mine = {each.data_ptr() for each in value.values() if isinstance(each, Tensor)}
    teacher = {each.data_ptr() for each in case.args[0].values()}
    shared = torch.tensor(bool(mine & teacher), dtype=torch.bool, device="cpu")
    return {"tensors": dict(sorted(value.items(), key=lambda item: str(item[0]))), "shared": shared}


FIRST_STUDENT = Exercise(
    name="lab06.first_student",
    lab="06",
    number="6.7",
    title="Every second layer",
    function="first_student",
    statement=(
        "`tensors` maps tensor names to the tensors of a teacher. It has `teacher_layers` layers, whose names begin with "
        "`transformer.h.0.`, `transformer.h.1.` and so on. Return the dictionary of a student with `layers` layers; `layers` "
        "divides `teacher_layers`. With half the layers, the student's layers 0, 1, 2, ... are the teacher's 1, 3, 5, ...; "
        "with a third, 2, 5, 8, .... All other tensors stay. Every tensor is a copy with memory of its own."
    ),
    points=12,
    minutes=6,
    difficulty=2,
    core=True,
    cases=_cases,
    hints=(
        "Which number does the last layer of the student have, and which layer of the teacher should it be?",
        "Find the layer number in each name, as a whole number: 1 is also the beginning of 10. Which numbers stay, if the last "
        "of every teacher_layers / layers layers does? A division then gives the student's number.",
        'parts = name.split("."); every = teacher_layers // layers; parts[2] = str((int(parts[2]) + 1) // every - 1)',
    ),
    observe=_tensors_and_memory,
)
EXERCISES = (FIRST_STUDENT,)
