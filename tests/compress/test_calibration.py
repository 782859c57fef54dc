"""Calibration text: it is not the held-out text, its windows depend on the seed, and text without information is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from labkit.checkpoints.fetch import BUILT_IN
from labkit.compress.calibration import HELD_OUT, CalibrationText, runs_of_words, windows_of
from labkit.compress.input_statistics import InputStatistics
from labkit.errors import InvalidRequest, LabkitError
from labkit.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(BUILT_IN["gptj-tiny"] / "tokenizer.json")


def test_the_built_in_text_shares_no_passage_with_the_held_out_text() -> None:
    held_out, text = HELD_OUT.read_text("utf-8"), CalibrationText.read()
    text.check_apart(held_out)
    assert not runs_of_words(text.text, 8) & runs_of_words(held_out, 8)
    lines = {line.strip() for line in held_out.split(". ") if len(line) > 60}
    assert len(lines) > 100
    assert not [line for line in lines if line in text.text]


def test_a_leak_is_found() -> None:
    held_out = HELD_OUT.read_text("utf-8")
    leaky = CalibrationText("leaky", CalibrationText.read().text + held_out[5000:5200])
    with pytest.raises(InvalidRequest, match=r"leaky shares \d+ passages of 13 words with the held-out text, such as"):
        leaky.check_apart(held_out)


def test_windows_depend_on_the_seed_alone(tokenizer: Tokenizer) -> None:
    text = CalibrationText("text", CalibrationText.read().text[:20_000])
    first, again, other = (windows_of(text, tokenizer, 64, 5, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert [len(window) for window in first] == [64] * 5
    everything = windows_of(text, tokenizer, 64, 10**6, 0)
    assert len(everything) == len(tokenizer.encode(text.text)) // 64
    assert all(window in everything for window in first + other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; give a text of at least 64 tokens"),
        (" \n", "is empty"),
        ("In the beginning", r"has \d tokens, which is less than one window of 64; give a longer text"),
    ],
)
def test_texts_that_show_nothing(tokenizer: Tokenizer, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        windows_of(CalibrationText("text", text), tokenizer, 64, 4, 0)


def test_one_repeated_token(tokenizer: Tokenizer) -> None:
    once = tokenizer.encode(" the")
    assert len(once) == 1
    with pytest.raises(InvalidRequest, match="is one token repeated 300 times"):
        windows_of(CalibrationText("text", " the" * 300), tokenizer, 64, 4, 0)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa")
    for path in (tmp_path / "bytes", tmp_path / "missing"):
        with pytest.raises(InvalidRequest, match="cannot read the calibration text"):
            CalibrationText.read(path)


def test_statistics_of_inputs() -> None:
    x = torch.randn(40, 6)
    found = InputStatistics("a layer", 6)
    found.add(x[:25])
    found.add(x[25:])
    assert torch.allclose(found.hessian, x.T @ x / 40, atol=1e-5)
    assert torch.allclose(found.magnitude, x.abs().mean(0), atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_activations_that_are_not_finite(value: float) -> None:
    x = torch.randn(4, 6)
    x[2, 3] = value
    with pytest.raises(LabkitError, match="the calibration inputs of block 3 are NaN or infinite"):
        InputStatistics("block 3", 6).add(x)
