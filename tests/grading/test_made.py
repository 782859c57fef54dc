"""A cell names the values from earlier cells that it lacks, and says that exercises must be solved first."""

from __future__ import annotations

import pytest
import torch

from labkit.lab import made


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert not made(pruned={}, student=None, share=0.4)
    said = capsys.readouterr().out
    assert said.startswith("This cell needs pruned and student from further up: solve the exercises")
    assert said.count("\n") == 1


def test_nothing_is_said_if_all_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert made(pruned={"2:4": 1}, student=object(), share=0.0, mask=torch.zeros(3), number=torch.tensor(0))
    assert capsys.readouterr().out == ""
