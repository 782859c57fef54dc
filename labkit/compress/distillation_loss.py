"""Two losses for a student: the distance from the teacher's predictions, and the distance from the teacher's hidden states.

Soft targets were introduced by G. Hinton et al. (2015, https://arxiv.org/abs/1503.02531). DistilBERT adds both losses to the
usual next-token loss (V. Sanh et al. 2019, https://arxiv.org/abs/1910.01108, section 3).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The divergence of the student's predictions from the teacher's, both softened by a temperature, in nats per row.

    student, teacher: logits `[rows, vocab_size]`. The loss is T^2 KL(softmax(teacher / T) || softmax(student / T)). With the
    factor T^2, the gradients have about the same size for every T (Hinton et al., section 2).
    """
    soft, own = ((logits / temperature).log_softmax(-1) for logits in (teacher, student))
    return F.kl_div(own, soft, reduction="batchmean", log_target=True) * temperature**2


def hidden_state_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine between the student's and the teacher's states `[rows, hidden_size]`, averaged over the rows."""
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()
