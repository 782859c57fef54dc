"""Defines the work that one run of a measurement does. Only speeds of the same task may be compared."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.errors import InvalidRequest
from labkit.plurals import counted


@dataclass(frozen=True)
class Task:
    """A task: to generate text with one model.

    sequences: how many sequences are generated at the same time (the batch size). prompt_tokens, new_tokens: the number of
    prompt tokens and of new tokens in each sequence. Raises `InvalidRequest` for a number below 1.
    """

    model: str
    sequences: int
    prompt_tokens: int
    new_tokens: int

    def __post_init__(self) -> None:
        if min(self.sequences, self.prompt_tokens, self.new_tokens) < 1:
            raise InvalidRequest(
                f"a task with {counted(self.sequences, 'sequence')}, {counted(self.prompt_tokens, 'prompt token')} and "
                f"{counted(self.new_tokens, 'new token')}: each number must be 1 or more"
            )

    @property
    def tokens(self) -> int:
        """The number of new tokens of all sequences together."""
        return self.sequences * self.new_tokens

    def __str__(self) -> str:
        """The task in words: "gptj-tiny: 8 sequences at once, 16 prompt tokens and 32 new tokens each"."""
        together, each = (" at once", " each") if self.sequences > 1 else ("", "")
        tokens = f"{counted(self.prompt_tokens, 'prompt token')} and {counted(self.new_tokens, 'new token')}"
        return f"{self.model}: {counted(self.sequences, 'sequence')}{together}, {tokens}{each}"
