"""Prompts that no cache has seen: pieces of English that `gptj-tiny` was not trained on, cut at random places."""

from __future__ import annotations

import random
from collections.abc import Sequence

from labkit.checkpoints import open_checkpoint
from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving.stress.lengths import Lengths

_TRIES = 1000


class Prompts:
    """An endless row of prompts, no two of them equal: cut at random places.

    lengths: in tokens of `gptj-tiny`'s tokenizer; another model has about as many. as_token_ids: give token ids in place of
    text, for models without a tokenizer. The same seed gives the same row.
    """

    def __init__(self, lengths: Lengths, *, seed: int = 0, as_token_ids: bool = False) -> None:
        checkpoint = open_checkpoint("gptj-tiny")
        if checkpoint.path is None:
            raise NotAvailable("the built-in model has no folder, and so no text to cut prompts from; install labkit anew")
        self._tokenizer = checkpoint.tokenizer()
        self._tokens = self._tokenizer.encode((checkpoint.path / "held_out_sample.txt").read_text("utf-8"))
        if lengths.high > len(self._tokens):
            raise InvalidRequest(f"prompts of {lengths.high} tokens; at most {len(self._tokens)} can be cut from the text")
        self._lengths, self._as_token_ids = lengths, as_token_ids
        self._random = random.Random(f"prompts {seed}")
        self._given: set[str | tuple[int, ...]] = set()

    def next(self) -> str | Sequence[int]:
        """The next one. Raises `InvalidRequest` when prompts are so short that there are no more."""
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
            "tokens; ask for longer ones"
        )
