"""Prompts that no cache holds: random pieces of an English text that `gptj-tiny` was not trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from labkit.checkpoints import open_checkpoint
from labkit.errors import InvalidRequest, NotAvailable
from labkit.plurals import counted
from labkit.serving.stress.lengths import Lengths

_TRIES = 1000


class Prompts:
    """A sequence of different prompts.

    lengths: the lengths of the prompts, counted in tokens of `gptj-tiny`'s tokenizer; another tokenizer splits the prompts into
    about as many tokens. as_token_ids: return token ids instead of text, for models without a tokenizer. Equal seeds give equal
    sequences.
    """

    def __init__(self, lengths: Lengths, *, seed: int = 0, as_token_ids: bool = False) -> None:
        checkpoint = open_checkpoint("gptj-tiny")
        if checkpoint.path is None:
            raise NotAvailable("the built-in model has no folder, and so there is no text for prompts; reinstall labkit")
        self._tokenizer = checkpoint.tokenizer()
        self._tokens = self._tokenizer.encode((checkpoint.path / "held_out_sample.txt").read_text("utf-8"))
        if lengths.high > len(self._tokens):
            raise InvalidRequest(
                f"the longest prompt needs {counted(lengths.high, 'token')}, but the text has only {len(self._tokens)}"
            )
        self._lengths, self._as_token_ids = lengths, as_token_ids
        self._random = random.Random(f"prompts {seed}")
        self._given: set[str | tuple[int, ...]] = set()

    def next(self) -> str | Sequence[int]:
        """Return the next prompt. Raises `InvalidRequest` if no new prompt is left, which can happen with short prompts."""
        for _ in range(_TRIES):
            length = self._lengths.draw(self._random)
            begin = self._random.randrange(len(self._tokens) - length + 1)
            ids = self._tokens[begin : begin + length]
            prompt: str | tuple[int, ...] = tuple(ids) if self._as_token_ids else self._tokenizer.decode(ids)
            if prompt and prompt not in self._given:
                self._given.add(prompt)
                return prompt
        raise InvalidRequest(
            f"there are no more than {len(self._given)} different prompts of {self._lengths.low} to {self._lengths.high} "
            "tokens; ask for longer prompts"
        )
