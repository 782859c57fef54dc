"""Recovery: trains a pruned model without changing its mask, so that it predicts like the dense model again.

This is the workflow of A. Mishra et al. (2021), https://arxiv.org/abs/2104.08378, section 4: prune once, then train without
changing the mask. The loss is the divergence from the dense model's predictions, as in `labkit.compress.qat`. All tensors of
the blocks are trained: the kept weights of the matrices, the norms and the biases. The embedding, the last norm and the head
are not trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.output import Progress
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.safetensors_writer import write_safetensors
from labkit.compress.dense_model import DenseModel
from labkit.compress.training_state import Adam
from labkit.compress.training_steps import add_divergence, drawn, share_of_rate, time_left
from labkit.errors import InvalidRequest, LabkitError

SAVE_EVERY = 16
"""The number of steps between two saves of the state. If the process is killed, at most this many steps are lost."""


@dataclass(frozen=True)
class RecoveryOptions:
    """The options of a recovery.

    There are `steps` training steps, each on `windows` calibration windows. `rate` is Adam's highest learning rate
    (`share_of_rate`). `continuations` is how many times the dense model continues each calibration window; the training uses
    this text as well (`written_windows`). Raises `InvalidRequest` for values that are out of range.
    """

    steps: int = 150
    windows: int = 2
    rate: float = 1e-3
    continuations: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "windows", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidRequest(f"{name} of the recovery is {getattr(self, name)!r}; a number above 0 is accepted")
        if self.continuations < 0:
            raise InvalidRequest(f"continuations is {self.continuations!r}; a whole number of at least 0 is accepted")


@dataclass
class RecoveryState:
    """The saved state from which a killed recovery can continue.

    It consists of the step, the trained tensors, the masks of the matrices, and Adam's averages of each tensor.
    """

    step: int
    tensors: dict[str, Tensor]
    masks: dict[str, Tensor]
    adam: dict[str, Adam]

    @classmethod
    def start(cls, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> RecoveryState:
        """The state before the first step; `masks` has the masks of the matrices, by the same names."""
        mine = {name: each.float().clone() for name, each in tensors.items()}
        adam = {name: Adam(torch.zeros_like(each), torch.zeros_like(each)) for name, each in mine.items()}
        return cls(0, mine, dict(masks), adam)

    def save(self, path: Path) -> None:
        """Write the state into one safetensors file, atomically."""
        parts = {"tensor": self.tensors, "mean": {name: each.mean for name, each in self.adam.items()}}
        parts |= {"square": {name: each.square for name, each in self.adam.items()}}
        found = {f"{name}/{part}": each.detach() for part, of_part in parts.items() for name, each in of_part.items()}
        found |= {"step": torch.tensor([self.step], dtype=torch.float32, device="cpu")}
        write_safetensors(path, found | {f"{name}/mask": each.to(torch.uint8) for name, each in self.masks.items()})

    @classmethod
    def load(cls, path: Path) -> RecoveryState | None:
        """Read the state from a file; return None if there is no file."""
        if not path.is_file():
            return None
        file = SafetensorsFile(path)
        found: dict[str, dict[str, Tensor]] = {part: {} for part in ("tensor", "mean", "square", "mask")}
        for entry in (*file.entries, *file.integers):
            name, _, part = entry.rpartition("/")
            if name:
                found[part][name] = file.load(entry).clone()
        adam = {name: Adam(mean, found["square"][name]) for name, mean in found["mean"].items()}
        masks = {name: each.bool() for name, each in found["mask"].items()}
        return cls(int(file.load("step")), found["tensor"], masks, adam)


def recover(
    model: DenseModel,
    start: RecoveryState | None,
    ids: Sequence[Sequence[int]],
    options: RecoveryOptions,
    seed: int,
    state_file: Path,
    progress: Progress,
) -> RecoveryState:
    """Train the tensors of `start` without changing their masks, and return the last state.

    If `state_file` exists, `start` is not read and can be None: the training continues from the file, and the result is the
    same as without an interruption. `ids` are windows of tokens; `seed` chooses the windows of each step. Raises `LabkitError`
    if the loss is not finite.
    """
    state = RecoveryState.load(state_file) or start
    assert state is not None
    if not state_file.is_file():
        state.save(state_file)
    begun, first, loss = time.monotonic(), state.step, math.nan
    while state.step < options.steps:
        seconds = (time.monotonic() - begun) / max(state.step - first, 1) * (options.steps - state.step)
        told = "" if state.step == first else f", divergence {loss:.4f}, {time_left(seconds)}"
        progress(state.step, options.steps, f"recovery step {state.step + 1}{told}")
        loss = _step(model, state, [ids[each] for each in drawn(len(ids), options.windows, seed, state.step)], options)
        if state.step % SAVE_EVERY == 0 or state.step == options.steps:
            state.save(state_file)
    return state


def _step(model: DenseModel, state: RecoveryState, windows: Sequence[Sequence[int]], options: RecoveryOptions) -> float:
    """Do one training step. Returns the mean divergence before the update, in nats per token."""
    with torch.enable_grad():
        for each in state.tensors.values():
            each.requires_grad_(True).grad = None
        total = sum(add_divergence(model, state.tensors, window, len(windows)) for window in windows)
    if not math.isfinite(total):
        raise LabkitError(
            f"the loss of recovery step {state.step + 1} is not finite; check the model with `labkit evaluate`, or use the "
            "method without -recovered"
        )
    rate = options.rate * share_of_rate(state.step, options.steps)
    state.step += 1
    for name, tensor in state.tensors.items():
        if name in state.masks:
            assert tensor.grad is not None
            tensor.grad.mul_(state.masks[name])  # Adam's averages of pruned weights are then 0, so these weights stay 0
        state.adam[name].update(tensor, rate, state.step)
    return total
