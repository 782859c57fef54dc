"""The saved state from which quantization-aware training can continue: the step, weights, scales and Adam's averages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.safetensors_writer import write_safetensors

BETAS = 0.9, 0.99


@dataclass
class Adam:
    """The averages of one tensor's gradients and of their squares (D. Kingma and J. Ba 2015)."""

    mean: Tensor
    square: Tensor

    def update(self, tensor: Tensor, rate: float, step: int) -> None:
        """Update `tensor` with its gradient; `step` counts from 1."""
        assert tensor.grad is not None
        self.mean.lerp_(tensor.grad, 1 - BETAS[0])
        self.square.lerp_(tensor.grad.square(), 1 - BETAS[1])
        size = (self.square / (1 - BETAS[1] ** step)).sqrt_().add_(1e-12)
        tensor.detach().sub_(rate * (self.mean / (1 - BETAS[0] ** step)) / size)


@dataclass
class TrainingState:
    """The state of a training after `step` steps.

    `weights` `[out, in]`, `starts` `[out, groups]` and `logarithms` `[out, groups]` each map the name of a matrix to a tensor.
    A scale is its value in `starts` times e^logarithm, so its sign cannot change. `adam` holds the averages of a matrix under
    the matrix's name, and the averages of its logarithms under this name plus `.scale`.
    """

    step: int
    scheme: IntegerScheme
    weights: dict[str, Tensor]
    starts: dict[str, Tensor]
    logarithms: dict[str, Tensor]
    adam: dict[str, Adam]

    @classmethod
    def start(cls, scheme: IntegerScheme, weights: dict[str, Tensor], scales: dict[str, Tensor]) -> TrainingState:
        """The state before the first step."""
        logarithms = {name: torch.zeros_like(each) for name, each in scales.items()}
        trained = weights | {f"{name}.scale": each for name, each in logarithms.items()}
        adam = {name: Adam(torch.zeros_like(each), torch.zeros_like(each)) for name, each in trained.items()}
        return cls(0, scheme, weights, scales, logarithms, adam)

    def scales(self, name: str) -> Tensor:
        """The scales of a matrix, `[out, groups]`."""
        return self.starts[name] * self.logarithms[name].exp()

    def save(self, path: Path) -> None:
        """Write the state into one safetensors file, atomically."""
        parts = {"weight": self.weights, "start": self.starts, "logarithm": self.logarithms}
        parts |= {"mean": {name: each.mean for name, each in self.adam.items()}}
        parts |= {"square": {name: each.square for name, each in self.adam.items()}}
        tensors = {f"{name}/{part}": each.detach() for part, found in parts.items() for name, each in found.items()}
        numbers = [self.step, self.scheme.bits, self.scheme.group_size or 0]
        write_safetensors(path, tensors | {"numbers": torch.tensor(numbers, dtype=torch.float32, device="cpu")})

    @classmethod
    def load(cls, path: Path) -> TrainingState | None:
        """Read the state from a file; return None if there is no file."""
        if not path.is_file():
            return None
        file = SafetensorsFile(path)
        found: dict[str, dict[str, Tensor]] = {part: {} for part in ("weight", "start", "logarithm", "mean", "square")}
        for entry in file.entries:
            name, _, part = entry.rpartition("/")
            if name:
                found[part][name] = file.load(entry).clone()
        step, bits, size = (int(number) for number in file.load("numbers").tolist())
        adam = {name: Adam(mean, found["square"][name]) for name, mean in found["mean"].items()}
        scheme = IntegerScheme(bits, size or None)
        return cls(step, scheme, found["weight"], found["start"], found["logarithm"], adam)
