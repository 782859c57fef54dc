"""What the training runs of lab 06 share: windows of text, the learning rate of each step, and gradients of the loss."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.compress.calibration import CalibrationText, windows_of
from labkit.compress.dense_model import DenseModel
from labkit.compress.distillation_loss import soft_target_loss
from labkit.compress.training_steps import drawn
from labkit.errors import InvalidRequest, LabkitError
from labkit.exercises.lab05.tensors import checkpoint
from labkit.exercises.lab06.models import teacher
from labkit.measure import progress_bar
from labkit.torch_state import gradients_restored

WINDOW = 256
"""The number of tokens in a training window."""
WINDOWS = 2
"""The number of windows in a step."""
RISE = 0.1
"""The learning rate rises over this share of the training, and then falls to 0."""

Loss = Callable[[Tensor, Tensor], Any]
"""Maps the logits of a model and of its teacher, `[tokens, vocab_size]` float32, to a loss."""


@functools.cache
def all_windows() -> tuple[tuple[int, ...], ...]:
    """The whole calibration text as windows of tokens, always in the same order."""
    text = CalibrationText.read()
    return tuple(map(tuple, windows_of(text, checkpoint().tokenizer(), WINDOW, len(text.text), seed=0)))


def steps(title: str, count: int, rate: float, seconds: float) -> Iterator[tuple[list[list[int]], float]]:
    """Yield the windows of tokens and the learning rate (at most `rate`) of each training step, with a progress bar.

    After `seconds` the training ends early, so a slow machine takes fewer than `count` steps; a printed line says how many
    steps it took. The learning rate depends on the share of steps that are done, or on the share of the time that has passed if
    that is larger.
    """
    bar, begun, windows = progress_bar(title), time.monotonic(), all_windows()
    for step in range(count):
        done = max(step / count, (time.monotonic() - begun) / seconds)
        if done >= 1:
            print(f"{title}: {step} of {count} steps, because the time limit of {seconds:g} s was reached")
            break
        yield [list(windows[each]) for each in drawn(len(windows), WINDOWS, 0, step)], rate * share_of_rate(done)
        bar(step + 1, count)
    bar(count, count)


def share_of_rate(done: float) -> float:
    """The share of the largest learning rate when a share `done` of the training is over, both from 0 to 1."""
    return min((done + 0.01) / RISE, (1 - done) / (1 - RISE), 1.0)


def divergence(made: Tensor, taught: Tensor) -> Tensor:
    """How far predictions are from the teacher's, in nats per token. `made` and `taught` are logits `[tokens, vocab_size]`."""
    return soft_target_loss(made, taught, temperature=1.0)


def backward(model: DenseModel, windows: Sequence[Sequence[int]], loss: Loss, part: str = "") -> float:
    """Compute the gradients of a model's tensors whose names begin with `part`, and return the mean loss.

    Matrix products are computed in bfloat16, as in `labkit compress --method distill`. Raises `InvalidRequest` if the loss has
    no gradient, and `LabkitError` if the loss is not finite.
    """
    for name, tensor in model.tensors.items():
        tensor.requires_grad_(name.startswith(part)).grad = None
    total = 0.0
    for ids in windows:
        with torch.autocast("cpu", torch.bfloat16):
            with gradients_restored(), torch.no_grad():
                taught = teacher().logits(ids)
            made = model.logits(ids)
        found = loss(made.float(), taught.float())
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.requires_grad:
            raise InvalidRequest(
                "the loss must be a tensor with one number and a gradient; check it with check(soft_target_loss)"
            )
        (found / len(windows)).backward()  # type: ignore[no-untyped-call]
        total += float(found.detach()) / len(windows)
    if not math.isfinite(total):
        raise LabkitError("the loss of a training step is not finite; check your functions, then run the cell again")
    return total
