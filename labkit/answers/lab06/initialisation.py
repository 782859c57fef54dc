"""The answer to exercise 6.7: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab06.initialisation import FIRST_STUDENT


def first_student(tensors: dict[str, Tensor], teacher_layers: int, layers: int) -> dict[str, Tensor]:
    """The reference solution of exercise 6.7."""
    return _student(tensors, teacher_layers, layers)


def _student(
    tensors: dict[str, Tensor],
    teacher_layers: int,
    layers: int,
    *,
    which: str = "last of each part",
    renumbered: bool = True,
    rest: bool = True,
    whole_number: bool = True,
    copied: bool = True,
) -> dict[str, Tensor]:
    """Return the student's tensors. Options make the known mistakes."""
    every = teacher_layers // layers
    chosen = {
        "last of each part": [every * place + every - 1 for place in range(layers)],
        "first of each part": [every * place for place in range(layers)],
        "first layers": list(range(layers)),
        "last layers": list(range(teacher_layers - layers, teacher_layers)),
        "every second": [min(2 * place + 1, teacher_layers - 1) for place in range(layers)],
        "backwards": [teacher_layers - 1 - every * place for place in range(layers)],
    }[which]
    found = {name: tensor for name, tensor in tensors.items() if rest and not name.startswith("transformer.h.")}
    for place, layer in enumerate(chosen):
        prefix = f"transformer.h.{layer}" + ("." if whole_number else "")
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                part = name.removeprefix("transformer.h.").partition(".")[2]
                found[f"transformer.h.{place if renumbered else layer}.{part}"] = tensor
    return {name: tensor.clone() if copied else tensor for name, tensor in found.items()}


def _step_of_two(tensors: dict[str, Tensor], teacher_layers: int, layers: int) -> dict[str, Tensor]:
    return _student(tensors, teacher_layers, teacher_layers // 2)


def _digit_of_name(tensors: dict[str, Tensor], teacher_layers: int, layers: int, *, split: bool = False) -> dict[str, Tensor]:
    """Wrong: the number of a layer is read from a single character of the tensor's name.

    If `split` is true, the new name is made from the parts between the dots of the old name.
    """
    every, found, begin = teacher_layers // layers, {}, "transformer.h."
    for name, tensor in tensors.items():
        new = name
        if name.startswith(begin):
            layer = int(name[len(begin)])
            if layer % every != every - 1:
                continue
            rest = name.split(".", 3)[3] if split else name[len(begin) + 1 :].removeprefix(".")
            dot = "." if split or name[len(begin) + 1] == "." else ""
            new = f"{begin}{layer // every}{dot}{rest}"
        found[new] = tensor.clone()
    return found


def _all_layers(tensors: dict[str, Tensor], teacher_layers: int, layers: int) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


FIRST_STUDENT_ANSWER = Answer(
    exercise=FIRST_STUDENT,
    reference=first_student,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You begin with the teacher's layer 0. For half the layers, take 1, 3, 5, ..., so that the student's last "
            "layer is the "
            "teacher's last.",
            partial(_student, which="first of each part"),
        ),
        Mistake(
            "You take the first layers of the teacher; spread your choice over all layers.",
            partial(_student, which="first layers"),
        ),
        Mistake(
            "You take the last layers of the teacher; spread your choice over all layers.",
            partial(_student, which="last layers"),
        ),
        Mistake(
            "Every second layer is right only for a student with half the layers; for a third of the layers, take every third.",
            partial(_student, which="every second"),
        ),
        Mistake(
            "You take every second layer, whatever the two numbers say: from 12 layers to 3, take every fourth.", _step_of_two
        ),
        Mistake(
            "You read one digit of a layer's number, so you confuse the layers from 10 on with others; read the whole number.",
            _digit_of_name,
        ),
        Mistake(
            "You read one digit of a layer's number, so a layer from 10 on replaces another layer; read the whole number.",
            partial(_digit_of_name, split=True),
        ),
        Mistake("Your layers are in the wrong order: the last became the first.", partial(_student, which="backwards")),
        Mistake("The student's layers need new numbers: 0, 1, 2, and so on.", partial(_student, renumbered=False)),
        Mistake("Embedding, last norm and head are missing; they stay as they are.", partial(_student, rest=False)),
        Mistake("All layers of the teacher are still there.", _all_layers),
        Mistake(
            "The name of layer 1 is also the beginning of the names of layers 10 and 11: compare the whole number.",
            partial(_student, whole_number=False),
        ),
        Mistake(
            "A tensor shares its memory with the teacher: training the student would change the teacher. Make copies.",
            partial(_student, copied=False),
        ),
    ),
    names={"['tensors']": "the student's tensors", "['shared']": "memory shared with the teacher"},
)
ANSWERS = (FIRST_STUDENT_ANSWER,)
