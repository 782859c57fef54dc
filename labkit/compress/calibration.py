"""Reads a calibration text, and cuts it into windows of tokens. A random sample of the windows can be chosen.

A quantizer runs the model on these windows and observes the activations. Quality is measured on held-out text. A calibration
text that shares passages with the held-out text is refused, because the measured quality would then be too good.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from labkit.checkpoints.fetch import BUILT_IN
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.plurals import counted
from labkit.tokenizer import Tokenizer

BUILT_IN_TEXT = BUILT_IN["gptj-tiny"] / "calibration_sample.txt"
"""Passages of gptj-tiny's training text; the default calibration text."""
HELD_OUT = BUILT_IN["gptj-tiny"] / "held_out_sample.txt"
RUN_OF_WORDS = 13
"""Two texts share a passage if they have this many words in a row in common (the length in Brown et al. 2020, appendix C)."""
TOKENS_PER_INPUT = 16
"""By default there are this many calibration tokens for each input of the widest matrix (fc_out)."""


@dataclass(frozen=True)
class CalibrationText:
    """A calibration text, and the name by which records refer to it."""

    name: str
    text: str

    @classmethod
    def read(cls, path: Path | None = None) -> CalibrationText:
        """Read a UTF-8 file, by default the built-in sample. Raises `InvalidRequest` if the file cannot be read."""
        source = path or BUILT_IN_TEXT
        try:
            return cls(source.name, source.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"cannot read the calibration text {source} as UTF-8 text: {error}") from error

    def check_apart(self, held_out: str) -> None:
        """Raise `InvalidRequest` if this text shares a passage with the text on which quality is measured."""
        shared = runs_of_words(self.text) & runs_of_words(held_out)
        if shared:
            raise InvalidRequest(
                f"the calibration text {self.name} shares {counted(len(shared), 'passage')} of {RUN_OF_WORDS} words with the "
                f"held-out text, such as {' '.join(min(shared))!r}; quality measured on that text would be too good, so give "
                "another calibration text"
            )


def runs_of_words(text: str, length: int = RUN_OF_WORDS) -> set[tuple[str, ...]]:
    """All sequences of `length` consecutive words in a text, in lower case and without punctuation."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[begin : begin + length]) for begin in range(len(words) - length + 1)}


def default_windows(config: GPTJConfig, window: int) -> int:
    """The number of windows of `window` tokens that gives `TOKENS_PER_INPUT` tokens per input of the widest matrix."""
    return -(-TOKENS_PER_INPUT * config.intermediate_size // window)


def windows_of(text: CalibrationText, tokenizer: Tokenizer, window: int, count: int, seed: int) -> list[list[int]]:
    """Cut a text into windows of `window` tokens, and return `count` of them (or all) in a random order.

    `seed` determines the order. Raises `InvalidRequest` for a text that is empty, shorter than one window, or made of one
    repeated token.
    """
    if count < 1 or window < 2:
        raise InvalidRequest(
            f"{counted(count, 'window')} of {counted(window, 'token')} are not enough; at least 1 window of 2 tokens is needed"
        )
    ids = tokenizer.encode(text.text)
    if not text.text.strip() or not ids:
        raise InvalidRequest(f"the calibration text {text.name} is empty; give a text of at least {window} tokens")
    if len(set(ids)) == 1:
        raise InvalidRequest(
            f"the calibration text {text.name} is one token repeated {len(ids)} times, so its activations are not like those "
            f"of real text; give prose of the kind that the model will read"
        )
    if len(ids) < window:
        raise InvalidRequest(
            f"the calibration text {text.name} has {counted(len(ids), 'token')}, which is less than one window of {window}; "
            "give a longer text, or a smaller --window"
        )
    parts = [ids[begin : begin + window] for begin in range(0, len(ids) - window + 1, window)]
    order = torch.randperm(len(parts), dtype=torch.int64, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return [parts[index] for index in order[:count].tolist()]
