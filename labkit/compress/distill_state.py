"""The saved state from which a killed distillation can continue: the student's weights, Adam's averages, and the step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.safetensors_writer import write_safetensors
from labkit.compress.training_state import Adam


@dataclass
class DistillState:
    """The finished steps, the seconds that they took, and the trained tensors by their names."""

    step: int
    seconds: float
    weights: dict[str, Tensor]
    adam: dict[str, Adam]

    @classmethod
    def start(cls, weights: dict[str, Tensor]) -> DistillState:
        """The state before the first step."""
        adam = {name: Adam(torch.zeros_like(each), torch.zeros_like(each)) for name, each in weights.items()}
        return cls(0, 0.0, weights, adam)

    def save(self, path: Path) -> None:
        """Write the state into one safetensors file, atomically."""
        parts = {"weight": self.weights, "mean": {name: each.mean for name, each in self.adam.items()}}
        parts["square"] = {name: each.square for name, each in self.adam.items()}
        tensors = {f"{name}/{part}": each.detach() for part, found in parts.items() for name, each in found.items()}
        numbers = torch.tensor([self.step, self.seconds], dtype=torch.float32, device="cpu")
        write_safetensors(path, tensors | {"numbers": numbers})

    @classmethod
    def load(cls, path: Path) -> DistillState | None:
        """Read the state from a file; return None if there is no file."""
        if not path.is_file():
            return None
        file = SafetensorsFile(path)
        found: dict[str, dict[str, Tensor]] = {part: {} for part in ("weight", "mean", "square")}
        for entry in file.entries:
            name, _, part = entry.rpartition("/")
            if name:
                found[part][name] = file.load(entry).clone()
        step, seconds = file.load("numbers").tolist()
        adam = {name: Adam(mean, found["square"][name]) for name, mean in found["mean"].items()}
        return cls(int(step), seconds, found["weight"], adam)
