"""Measures of a student's quality: the teacher itself scores 100 %, and a model that knows only the frequencies of tokens keeps
0 % of the information.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labkit.compress.kept_quality import kept_quality, token_frequencies
from labkit.engine.text_windows import text_windows

VOCAB = 31
IDS = torch.randint(VOCAB, (400,), generator=torch.Generator().manual_seed(1)).tolist()
WINDOWS = text_windows(IDS, 40)


def knowing(strength: float) -> Tensor:
    """Logits after each token of the text: random noise, with `strength` added for the token that really follows."""
    logits = torch.randn(len(IDS), VOCAB, generator=torch.Generator().manual_seed(2))
    logits[torch.arange(len(IDS) - 1), torch.tensor(IDS[1:])] += strength
    return logits


def model(logits: Tensor) -> object:
    """Return a function that finds a window in the text and returns its rows of `logits`."""

    def found(seen: list[int]) -> Tensor:
        (place,) = [at for at in range(len(IDS)) if IDS[at : at + len(seen)] == seen]
        return logits[place : place + len(seen)]

    return found


def test_scores_are_counted_by_hand() -> None:
    teacher, student, table = knowing(3.0), knowing(1.5), token_frequencies(IDS, VOCAB)
    found = kept_quality(model(student), model(teacher), WINDOWS, table)  # type: ignore[arg-type]
    targets = torch.tensor(IDS[1:])
    right = [float((each[:-1].argmax(-1) == targets).double().mean()) for each in (student, teacher)]
    bits = [float(-each[:-1].double().log_softmax(-1).gather(1, targets[:, None]).mean()) for each in (student, teacher)]
    least = float(-table[targets].mean())
    assert 0.1 < right[0] < right[1] < 1
    assert found.accuracy.value == pytest.approx(right[0])
    assert found.teacher_accuracy.value == pytest.approx(right[1])
    assert found.kept.value == pytest.approx(100 * right[0] / right[1])
    assert found.information.value == pytest.approx(100 * (least - bits[0]) / (least - bits[1]))
    assert found.kept.low is not None
    assert found.kept.high is not None
    assert found.kept.low < found.kept.value < found.kept.high


def test_the_ends_of_the_scales() -> None:
    teacher, table = knowing(3.0), token_frequencies(IDS, VOCAB)
    same = kept_quality(model(teacher), model(teacher), WINDOWS, table)  # type: ignore[arg-type]
    assert (same.kept.value, same.information.value) == pytest.approx((100, 100))
    nothing = kept_quality(model(table.repeat(len(IDS), 1)), model(teacher), WINDOWS, table)  # type: ignore[arg-type]
    assert nothing.information.value == pytest.approx(0, abs=1e-9)
    assert nothing.kept.value > 0  # a weakness of this measure: the kept information above is 0


def test_frequencies() -> None:
    found = token_frequencies([2, 2, 0], 4)
    assert torch.allclose(found.exp(), torch.tensor([2, 1, 3, 1], dtype=torch.float64) / 7)
