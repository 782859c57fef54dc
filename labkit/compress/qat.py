"""Quantization-aware training: the weights learn to be rounded.

The student is the model with quantized matrices (`fake_quantization`). The teacher is the dense model. The weights and scales
of the student are trained so that its predictions come close to the teacher's predictions. The loss is the Kullback-Leibler
divergence, as in G. Hinton et al. (2015, https://arxiv.org/abs/1503.02531) and, for quantized language models, Z. Liu et al.
(LLM-QAT, 2023, https://arxiv.org/abs/2305.17888). The student learns from the teacher's predictions and not from the next
tokens of the text, so a short text is enough. Embedding, norms, biases and the head are not trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from labkit.checkpoints.integer_weight import IntegerWeight
from labkit.checkpoints.output import Progress
from labkit.compress.dense_model import DenseModel
from labkit.compress.fake_quantization import fake_quantized, quantized
from labkit.compress.training_state import TrainingState
from labkit.compress.training_steps import add_divergence, drawn, share_of_rate, time_left
from labkit.errors import InvalidRequest, LabkitError

STEPS = 96
SAVE_EVERY = 4
"""The number of steps between two saves of the state. If the process is killed, at most this many steps are lost."""


INSIDE = 0.3
"""How far a weight can be from its integer when training begins, in steps of the grid.

With 0.49, many weights would jump to other integers in the first steps, and the model would get worse.
"""


@dataclass(frozen=True)
class QatOptions:
    """The options of quantization-aware training.

    There are `steps` training steps, each on `windows` calibration windows. `weight_rate` is the learning rate of the weights,
    in steps of their grid. `scale_rate` is the learning rate of the logarithms of the scales. Both rates rise over the first
    tenth of the steps, and then fall linearly to zero. `continuations` is how many times the dense model continues each
    calibration window; the training uses this text as well (`written_windows`). Raises `InvalidRequest` for values that are out
    of range.
    """

    steps: int = STEPS
    windows: int = 2
    weight_rate: float = 0.006
    scale_rate: float = 0.001
    continuations: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "windows", "weight_rate", "scale_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidRequest(f"{name} of the training is {getattr(self, name)!r}; a number above 0 is accepted")
        if self.continuations < 0:
            raise InvalidRequest(f"continuations is {self.continuations!r}; a whole number of at least 0 is accepted")

    def share(self, step: int) -> float:
        """The learning rates of step number `step` (from 0), as a share of the largest rates."""
        return share_of_rate(step, self.steps)


def train(
    model: DenseModel,
    start: Mapping[str, IntegerWeight],
    ids: Sequence[Sequence[int]],
    options: QatOptions,
    seed: int,
    state_file: Path,
    progress: Progress,
) -> dict[str, IntegerWeight]:
    """Train the matrices of `start`, and return them quantized.

    start: matrices by their names without `.weight`, quantized with another method; training begins with their integers and
    scales. If `state_file` exists, `start` is not read: the training continues from the file, and the result is the same as
    without an interruption. `ids` are windows of tokens; `seed` chooses the windows of each step. Raises `LabkitError` if the
    loss is not finite.
    """
    state = TrainingState.load(state_file) or started(model, start)
    if not state_file.is_file():
        state.save(state_file)
    begun, first = time.monotonic(), state.step
    loss = math.nan
    while state.step < options.steps:
        seconds = (time.monotonic() - begun) / max(state.step - first, 1) * (options.steps - state.step)
        told = "" if state.step == first else f", divergence {loss:.4f}, {time_left(seconds)}"
        progress(state.step, options.steps, f"training step {state.step + 1}{told}")
        loss = _step(model, state, [ids[each] for each in drawn(len(ids), options.windows, seed, state.step)], options)
        if state.step % SAVE_EVERY == 0 or state.step == options.steps:
            state.save(state_file)
    return {
        name: quantized(weight.detach(), state.scales(name).detach(), state.scheme) for name, weight in state.weights.items()
    }


def started(model: DenseModel, start: Mapping[str, IntegerWeight]) -> TrainingState:
    """The state before the first step.

    Each trained weight begins as close to the dense weight as possible while it still rounds to its integer. A small change can
    then move it to the next integer on the side of the dense weight.
    """
    weights, scales = {}, {}
    for name, matrix in start.items():
        centre, dense = matrix.dequantize(), model.tensors[f"{name}.weight"]
        half = INSIDE * matrix.scales.float().abs().repeat_interleave(centre.shape[1] // matrix.scales.shape[1], 1)
        weights[name] = dense.clamp(centre - half, centre + half)
        scales[name] = matrix.scales.float()
    return TrainingState.start(next(iter(start.values())).scheme, weights, scales)


def _step(model: DenseModel, state: TrainingState, windows: Sequence[Sequence[int]], options: QatOptions) -> float:
    """Do one training step. Returns the mean divergence before the update, in nats per token."""
    with torch.enable_grad():
        for each in (*state.weights.values(), *state.logarithms.values()):
            each.requires_grad_(True).grad = None
        made = {
            f"{name}.weight": fake_quantized(weight, state.scales(name), state.scheme) for name, weight in state.weights.items()
        }
        # The windows run one after another, and the gradients of the rounded matrices are added up. This saves memory.
        leaves = {name: each.detach().requires_grad_(True) for name, each in made.items()}
        total = sum(add_divergence(model, leaves, window, len(windows)) for window in windows)
        torch.autograd.backward(list(made.values()), [leaf.grad for leaf in leaves.values()])
    if not math.isfinite(total):
        raise LabkitError(
            f"the loss of training step {state.step + 1} is not finite; check the model with `labkit evaluate`, or use a "
            "method that trains nothing, such as gptq"
        )
    share = options.share(state.step)
    state.step += 1
    for name, weight in state.weights.items():
        rate = share * options.weight_rate * float(state.scales(name).detach().abs().mean())
        state.adam[name].update(weight, rate, state.step)
        state.adam[f"{name}.scale"].update(state.logarithms[name], share * options.scale_rate, state.step)
    return total
