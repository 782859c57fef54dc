"""The shape of a student, and its first weights: some layers of the teacher (V. Sanh et al. 2019, DistilBERT, section 2).

https://arxiv.org/abs/1910.01108. Embedding, norms and head are the teacher's, so only the number of layers differs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from labkit.checkpoints.synthetic import SyntheticCheckpoint
from labkit.compress.dense_model import DenseModel
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest


class Student(DenseModel):
    """A model whose tensors were made and not read."""

    def __init__(self, config: GPTJConfig, tensors: dict[str, Tensor]) -> None:
        self.config, self.tensors = config, tensors


def student_config(teacher: GPTJConfig, layers: int) -> GPTJConfig:
    """The teacher's shape with fewer layers. Raises `InvalidRequest` unless there are at least 1 and fewer than it has."""
    if not 1 <= layers < teacher.num_layers:
        raise InvalidRequest(
            f"layers is {layers}; a student has fewer layers than its teacher, which has {teacher.num_layers}: 1 to "
            f"{teacher.num_layers - 1} are accepted"
        )
    return replace(teacher, num_layers=layers)


def matched_layers(teacher_layers: int, layers: int) -> list[int]:
    """For each layer of the student, the layer of the teacher whose output it should have: evenly spread, the last is the last.

    With half the layers, these are every second layer: 1, 3, 5, ...
    """
    return [(place + 1) * teacher_layers // layers - 1 for place in range(layers)]


def first_student(teacher: DenseModel, layers: int) -> Student:
    """A student whose layers are copies of the teacher's matched layers; its tensors are its own."""
    config = student_config(teacher.config, layers)
    tensors: dict[str, Tensor] = {
        name: tensor.clone() for name, tensor in teacher.tensors.items() if not name.startswith("transformer.h.")
    }
    for place, layer in enumerate(matched_layers(teacher.config.num_layers, layers)):
        prefix = f"transformer.h.{layer}."
        for name, tensor in teacher.tensors.items():
            if name.startswith(prefix):
                tensors[f"transformer.h.{place}.{name.removeprefix(prefix)}"] = tensor.clone()
    return Student(config, tensors)


def random_student(teacher: DenseModel, layers: int, seed: int) -> Student:
    """A student of the same shape with random weights, which knows nothing of the teacher."""
    config = student_config(teacher.config, layers)
    checkpoint = SyntheticCheckpoint(config, "random student", seed)
    return Student(config, {name: checkpoint.read(name, dtype=torch.float32) for name in checkpoint.tensor_names()})
