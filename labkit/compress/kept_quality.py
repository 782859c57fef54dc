"""Measures how much of its teacher's quality a student keeps, on text that neither was trained on.

`kept` compares scores as DistilBERT's paper does. The paper's "97 % of the performance" compares mean scores on the GLUE tasks;
for most of these tasks, the score is the share of right answers. A language model's task is to predict the next token. So the
score here is the share of tokens for which the model's most likely token is right. `kept` is the student's score divided by the
teacher's score, in percent. Even a model that always predicts the most frequent token keeps more than 0 %.

`information` is a stricter measure. A model's gain is the number of bits that it saves compared with a table of token
frequencies, which ignores the text before a token. `information` is the student's gain divided by the teacher's gain,
in percent: 0 % is as good as the table, and 100 % is as good as the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from labkit.engine.bootstrap import Bootstrap, Estimate
from labkit.engine.evaluate import Logits
from labkit.engine.text_windows import TextWindow


@dataclass(frozen=True)
class KeptQuality:
    """Scores with their 95 % intervals.

    `accuracy` and `teacher_accuracy` are the shares of tokens that are the first choice of the student and of the teacher.
    `kept` and `information` are in percent of the teacher's value; their intervals are paired: each draw of the bootstrap uses
    the same windows for student and teacher.
    """

    accuracy: Estimate
    teacher_accuracy: Estimate
    kept: Estimate
    information: Estimate

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain values, for a record."""
        return {field.name: getattr(self, field.name).to_dict() for field in fields(self)}


def token_frequencies(ids: Sequence[int], vocab_size: int) -> Tensor:
    """The log-probability of each token in a text, `[vocab_size]` float64. 1 is added to the count of every token (Laplace)."""
    counts = torch.bincount(torch.tensor(ids, dtype=torch.int64, device="cpu"), minlength=vocab_size).double() + 1
    return (counts / counts.sum()).log()


def kept_quality(
    student: Logits, teacher: Logits, windows: Sequence[TextWindow], frequencies: Tensor, seed: int = 0
) -> KeptQuality:
    """Compare a student with its teacher on held-out windows.

    frequencies: `token_frequencies` of another text, such as training text. The seed determines the draws of the bootstrap.
    """
    rows = []
    for part in windows:
        wanted = torch.tensor(part.targets, dtype=torch.int64, device="cpu")
        found = [-frequencies[wanted].sum()]
        for logits in (student, teacher):
            scores = torch.log_softmax(logits(part.seen)[part.first :].double(), -1).cpu()
            found += [-scores.gather(1, wanted[:, None]).sum(), (scores.argmax(-1) == wanted).sum().double()]
        rows.append(torch.stack(found))
    table, nats, right, teacher_nats, teacher_right = torch.stack(rows).unbind(1)
    counts = torch.tensor([len(part.targets) for part in windows], dtype=torch.float64, device="cpu")
    draws = Bootstrap(len(windows), seed)
    return KeptQuality(
        accuracy=draws.ratio(right, counts),
        teacher_accuracy=draws.ratio(teacher_right, counts),
        kept=draws.ratio(100 * right, teacher_right),
        information=draws.ratio(100 * (table - nats), table - teacher_nats),
    )
