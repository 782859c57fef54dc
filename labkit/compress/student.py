"""Defines the shape of a student, and its first weights: some layers of the teacher.

This follows DistilBERT (V. Sanh et al. 2019, section 2, https://arxiv.org/abs/1910.01108). The embedding, the norms and the
head come from the teacher, so only the number of layers differs.

The choice of the copied layers matters. DistilBERT copies every second layer. Here, `chosen_layers` chooses the layers that
predict text best when the other layers are removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.checkpoints.synthetic import SyntheticCheckpoint
from labkit.compress.dense_model import DenseModel
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest


class Student(DenseModel):
    """A model that is made from tensors in memory instead of from a checkpoint."""

    def __init__(self, config: GPTJConfig, tensors: dict[str, Tensor]) -> None:
        self.config, self.tensors = config, tensors


def student_config(teacher: GPTJConfig, layers: int) -> GPTJConfig:
    """The teacher's shape with fewer layers. Raises `InvalidRequest` unless 1 <= layers < the teacher's number of layers."""
    if not 1 <= layers < teacher.num_layers:
        raise InvalidRequest(
            f"layers is {layers}; a student has fewer layers than its teacher, which has {teacher.num_layers}: 1 to "
            f"{teacher.num_layers - 1} are accepted"
        )
    return replace(teacher, num_layers=layers)


@torch.no_grad()
def chosen_layers(teacher: DenseModel, layers: int, windows: Sequence[Sequence[int]]) -> list[int]:
    """The numbers of the teacher's layers that a student begins with.

    Layers are removed one after another: in each round, every remaining layer is left out once, and the layer whose absence
    gives the best predictions of `windows` of text is removed. (X. Men et al. 2024, ShortGPT, https://arxiv.org/abs/2403.03853,
    remove layers by another measure.)
    """
    left = list(range(teacher.config.num_layers))
    while len(left) > layers:
        losses = [0.0] * len(left)
        for window in windows:
            state = teacher.embedded(window[:-1])
            for place, layer in enumerate(left):
                losses[place] += _loss(teacher, state, left[place + 1 :], window[1:])
                state = teacher.block(layer).forward(state)
        left.pop(losses.index(min(losses)))
    return left


def _loss(teacher: DenseModel, state: Tensor, layers: Sequence[int], targets: Sequence[int]) -> float:
    """The loss, in nats per token, of the predictions that the teacher makes from a state with only these layers."""
    for layer in layers:
        state = teacher.block(layer).forward(state)
    return float(F.cross_entropy(teacher.head(state), torch.tensor(targets, dtype=torch.int64, device="cpu")))


def spread_layers(teacher_layers: int, layers: int) -> list[int]:
    """DistilBERT's choice of layers: evenly spread, with the teacher's last layer at the end.

    If half of the layers are chosen, the result is 1, 3, 5, ...
    """
    return [(place + 1) * teacher_layers // layers - 1 for place in range(layers)]


def matched_layers(teacher_layers: int, copied: Sequence[int]) -> list[int]:
    """For each layer of the student, the layer of the teacher whose output it should imitate.

    A student's layer replaces its own original and the removed layers after it. So its output should be like the output of the
    last of these layers. The last layer of the student matches the last layer of the teacher.
    """
    return [layer - 1 for layer in copied[1:]] + [teacher_layers - 1]


def first_student(teacher: DenseModel, copied: Sequence[int]) -> Student:
    """A student whose layers are copies of the teacher's layers `copied`. No tensor is shared with the teacher."""
    config = student_config(teacher.config, len(copied))
    tensors: dict[str, Tensor] = {
        name: tensor.clone() for name, tensor in teacher.tensors.items() if not name.startswith("transformer.h.")
    }
    for place, layer in enumerate(copied):
        prefix = f"transformer.h.{layer}."
        for name, tensor in teacher.tensors.items():
            if name.startswith(prefix):
                tensors[f"transformer.h.{place}.{name.removeprefix(prefix)}"] = tensor.clone()
    return Student(config, tensors)


def random_student(teacher: DenseModel, layers: int, seed: int) -> Student:
    """A student with `layers` layers and random weights. All other sizes are the same as the teacher's."""
    config = student_config(teacher.config, layers)
    checkpoint = SyntheticCheckpoint(config, "random student", seed)
    return Student(config, {name: checkpoint.read(name, dtype=torch.float32) for name in checkpoint.tensor_names()})
