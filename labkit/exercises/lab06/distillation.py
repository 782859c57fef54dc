"""Exercise 6.6: the loss of a student that learns from a teacher's predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws


def _loss_and_gradient(case: Case, value: Any) -> Any:
    """Return the loss of an answer, and the loss's gradient for the student's logits (zeros if the loss has no gradient)."""
    student = case.args[0]
    gradient = None
    if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), student, allow_unused=True)
    loss = value.detach() if isinstance(value, Tensor) else value
    return {"loss": loss, "gradient": torch.zeros_like(student) if gradient is None else gradient.detach()}


def _case(draws: Draws, label: str, rows: int, vocabulary: int, temperature: float, size: float = 1.0) -> Case:
    teacher = draws.normal(rows, vocabulary, scale=2.0 * size)
    student = (0.5 * teacher + draws.normal(rows, vocabulary, scale=size)).requires_grad_()
    return Case(f"{label}, [{rows}, {vocabulary}], temperature {temperature:g}", (student, teacher, temperature))


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    return [
        _case(draws, "random logits", draws.pick.randrange(3, 9), 40, 2.0),
        _case(draws, "random logits", 7, draws.pick.randrange(10, 90), 1.0),
        _case(draws, "one row", 1, 12, 4.0),
        _case(draws, "as many rows as tokens", 9, 9, 3.0),
        _case(draws, "very large logits", 4, 20, 1.5, size=200.0),
        _case(draws, "a low temperature", 5, 17, 0.5),
    ]


SOFT_TARGET_LOSS = Exercise(
    name="lab06.soft_target_loss",
    lab="06",
    number="6.6",
    title="What the teacher would have said",
    function="soft_target_loss",
    statement=(
        "`student` and `teacher` are logits `[rows, vocab_size]`. With $p = \\text{softmax}(teacher / T)$ and "
        "$q = \\text{softmax}(student / T)$ for each row, return the loss "
        "$T^2 \\cdot \\sum p\\,(\\log p - \\log q)$, as the mean over the rows: a tensor with one number, through which gradients "
        "reach `student`. T is `temperature`. Some logits are so large that a probability becomes 0 in float32."
    ),
    points=14,
    minutes=7,
    difficulty=3,
    core=True,
    cases=_cases,
    hints=(
        "Over which dimension is a softmax taken here? And what is log(0)?",
        "Compute both logarithms directly from the logits, divided by T. The probabilities of the teacher are their exponentials.",
        "log_p = torch.log_softmax(teacher / temperature, -1); the weights of the sum are log_p.exp()",
    ),
    observe=_loss_and_gradient,
)
EXERCISES = (SOFT_TARGET_LOSS,)
