"""Compares a model with its teacher on held-out text. The results are the rows of lab 06's table and the points of its plot."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import open_checkpoint
from labkit.compress.block import MATRICES
from labkit.compress.calibration import HELD_OUT, CalibrationText
from labkit.compress.dense_model import DenseModel
from labkit.compress.kept_quality import kept_quality, token_frequencies
from labkit.engine.evaluate import Logits, compare_windows
from labkit.engine.text_windows import TextWindow, text_windows
from labkit.exercises.lab05.tensors import checkpoint
from labkit.exercises.lab06.models import teacher
from labkit.measure import progress_bar
from labkit.torch_state import gradients_restored

LETTERS = 4_000
"""How many characters of the held-out text are predicted: enough to see large differences, and few enough to take seconds."""


@dataclass(frozen=True)
class Row:
    """The results of a model on held-out text.

    bits_per_byte: its 95 % interval is from `low` to `high`. kept: the share of tokens that the model's first choice predicts
    correctly, in percent of the teacher's share. information: how much of the teacher's advantage over a table of token
    frequencies the model keeps, in percent. parameters: the number of parameters that are not pruned. megabytes: the size of
    the weight files, or NaN if the model has no files.
    """

    name: str
    bits_per_byte: float
    low: float
    high: float
    kept: float
    information: float
    parameters: int
    megabytes: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values for `KeptRuns`; `megabytes` is None if the model has no files."""
        return asdict(self) | {"megabytes": None if math.isnan(self.megabytes) else self.megabytes}


def of(name: str, model: DenseModel | Path | str) -> Row:
    """Measure a model in memory, or the stored weights of a model directory, in float32."""
    found = model if isinstance(model, DenseModel) else DenseModel(open_checkpoint(model))
    tokenizer, text = checkpoint().tokenizer(), held_out()
    logits = _remembered(found.logits)
    quality = compare_windows(logits, taught, windows(), tokenizer, text)
    kept = kept_quality(logits, taught, windows(), frequencies())
    bits = quality.bits_per_byte
    low, high = (math.nan if end is None else end for end in (bits.low, bits.high))
    files = math.nan if isinstance(model, DenseModel) else megabytes_of(model)
    return Row(name, bits.value, low, high, kept.kept.value, kept.information.value, parameters_of(found), files)


def rows(models: Mapping[str, DenseModel | Path | str]) -> list[Row]:
    """Measure several models by name, with a progress bar."""
    bar, found = progress_bar("models on held-out text"), []
    for name, model in models.items():
        found.append(of(name, model))
        bar(len(found), len(models))
    return found


def held_out() -> str:
    """The part of the held-out text that is predicted."""
    return HELD_OUT.read_text("utf-8")[:LETTERS]


@functools.cache
def windows() -> list[TextWindow]:
    """The windows of the held-out text."""
    return text_windows(checkpoint().tokenizer().encode(held_out()), checkpoint().config.context_length)


@functools.cache
def frequencies() -> Tensor:
    """The log-probability of each token in the calibration text."""
    ids = checkpoint().tokenizer().encode(CalibrationText.read().text)
    return token_frequencies(ids, checkpoint().config.vocab_size)


@functools.cache
def _teacher() -> Logits:
    return _remembered(teacher().logits)


def taught(ids: list[int]) -> Tensor:
    """The logits of the dense model for a window of the held-out text. They are computed only once."""
    return _teacher()(ids)


def _remembered(logits: Logits) -> Logits:
    """Return a function that calls `logits` without gradients and stores the results, so each window is computed only once."""
    known: dict[tuple[int, ...], Tensor] = {}

    def found(ids: list[int]) -> Tensor:
        if tuple(ids) not in known:
            with gradients_restored(), torch.no_grad():
                known[tuple(ids)] = logits(ids)
        return known[tuple(ids)]

    return found


def parameters_of(model: DenseModel) -> int:
    """Count the parameters of a model, except the zeros in the matrices of its blocks."""
    matrices = tuple(f"{name}.weight" for name in MATRICES)
    return sum(int((t != 0).sum()) if name.endswith(matrices) else t.numel() for name, t in model.tensors.items())


def megabytes_of(path: Path | str) -> float:
    """The size of the weight files of a model directory, in units of 1,000,000 bytes."""
    place = checkpoint().path if str(path) == checkpoint().name else path
    return sum(file.stat().st_size for file in Path(place or "").glob("*.safetensors")) / 1e6
