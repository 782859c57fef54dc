"""The answer to exercise 6.6: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab06.distillation import SOFT_TARGET_LOSS


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The reference solution of exercise 6.6."""
    return _loss(student, teacher, temperature)


def _loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    power: int = 2,
    softened: str = "both",
    reverse: bool = False,
    over: str = "rows",
    entropy: bool = True,
    dim: int = -1,
    sign: int = 1,
    detached: bool = False,
) -> Tensor:
    """Return the loss. Options make the known mistakes."""
    of_teacher = 1.0 if softened in ("none", "student") else temperature
    of_student = 1.0 if softened in ("none", "teacher") else temperature
    if softened == "upside down":
        of_teacher = of_student = 1 / temperature
    p = torch.log_softmax(teacher / of_teacher, dim)
    q = torch.log_softmax(student / of_student, dim)
    if detached:
        q = q.detach()
    if reverse:
        p, q = q, p
    parts = p.exp() * ((p if entropy else 0.0) - q)
    total = {"rows": parts.sum(-1).mean(), "none": parts.sum(), "all": parts.mean()}[over]
    return total * (sign * temperature**power)


def _log_of_softmax(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p, q = torch.softmax(teacher / temperature, -1), torch.softmax(student / temperature, -1)
    return temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()


def _exchanged(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Wrong: the arguments of `F.kl_div` are swapped.

    The first argument must be the student's log-probabilities, and the second argument the teacher's probabilities.
    """
    log_p, q = torch.log_softmax(teacher / temperature, -1), torch.softmax(student / temperature, -1)
    return temperature**2 * F.kl_div(log_p, q, reduction="batchmean")


def _hard(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * F.cross_entropy(student / temperature, teacher.argmax(-1))


def _squares(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return F.mse_loss(student, teacher)


SOFT_TARGET_LOSS_ANSWER = Answer(
    exercise=SOFT_TARGET_LOSS,
    reference=soft_target_loss,
    comparison=Comparison(relative=1e-4),
    mistakes=(
        Mistake("The factor T^2 is missing: without it, gradients become smaller when T grows.", partial(_loss, power=0)),
        Mistake("You multiply by T; the factor is its square.", partial(_loss, power=1)),
        Mistake("The temperature is missing in both softmaxes.", partial(_loss, softened="none")),
        Mistake(
            "You soften only the teacher; the student's logits must also be divided by T.", partial(_loss, softened="teacher")
        ),
        Mistake(
            "You soften only the student; the teacher's logits must also be divided by T.", partial(_loss, softened="student")
        ),
        Mistake(
            "You multiply the logits by T; divide them, so that a high temperature makes the distribution flat.",
            partial(_loss, softened="upside down"),
        ),
        Mistake(
            "You swapped teacher and student: the teacher's probabilities are the weights of the sum.",
            partial(_loss, reverse=True),
        ),
        Mistake(
            "The direction is reversed: the teacher's probabilities are the weights of the sum, and kl_div takes the student's "
            "log-probabilities first.",
            _exchanged,
        ),
        Mistake("You add up the rows; take their mean.", partial(_loss, over="none")),
        Mistake("You also take the mean over the vocabulary; add up its terms instead.", partial(_loss, over="all")),
        Mistake(
            "That is the cross-entropy: the gradient is right, but the loss is not 0 for a perfect student.",
            partial(_loss, entropy=False),
        ),
        Mistake("Your softmax is over the rows; it must be over the vocabulary.", partial(_loss, dim=0)),
        Mistake("The sign is wrong: this loss is never negative.", partial(_loss, sign=-1)),
        Mistake("The loss is right, but no gradient reaches the student.", partial(_loss, detached=True)),
        Mistake(
            "A probability of 0 has no logarithm, so your loss is not finite: compute the logarithms directly from the logits.",
            _log_of_softmax,
        ),
        Mistake(
            "You use only the teacher's first choice; the point is what the teacher says about all the other tokens.", _hard
        ),
        Mistake("You compare logits; compare the probabilities.", _squares),
    ),
    names={"['loss']": "the loss", "['gradient']": "the gradient for the student's logits"},
)
ANSWERS = (SOFT_TARGET_LOSS_ANSWER,)
