"""Functions for every training that imitates a dense model: the windows and the learning rate of a step, and the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from labkit.compress.dense_model import DenseModel


def share_of_rate(step: int, steps: int) -> float:
    """The learning rate of step number `step` (from 0), as a share of the largest rate.

    The rate rises over a tenth of the steps, then falls to zero.
    """
    rise = max(steps // 10, 1)
    return min((step + 1) / rise, (steps - step) / max(steps - rise, 1), 1.0)


def drawn(count: int, windows: int, seed: int, step: int) -> list[int]:
    """The indices of the windows, out of `count`, for step number `step`. Each pass over the text has its own random order."""
    chosen = []
    for place in range(step * windows, (step + 1) * windows):
        generator = torch.Generator("cpu").manual_seed(seed + 1_000_003 * (place // count))
        chosen.append(int(torch.randperm(count, generator=generator, dtype=torch.int64, device="cpu")[place % count]))
    return chosen


def time_left(seconds: float) -> str:
    """The remaining seconds as text."""
    return f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"


def add_divergence(model: DenseModel, leaves: Mapping[str, Tensor], window: Sequence[int], windows: int) -> float:
    """Add the gradients of one window's part of the loss to `leaves`, and return this part.

    The loss compares the predictions of `model` with its predictions after some tensors are replaced by `leaves`. It is the
    Kullback-Leibler divergence in nats per token, averaged over tokens and over `windows` windows.
    """
    with torch.no_grad():
        teacher = torch.log_softmax(model.logits(window), -1)
    student = torch.log_softmax(model.logits(window, leaves), -1)
    loss = (teacher.exp() * (teacher - student)).sum() / (len(window) * windows)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())
