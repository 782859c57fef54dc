"""A mistake in a model repository: where it is, what is wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A mistake: its line, what is wrong, and what to do about it.

    line: counted from 1; 0 for a mistake of a whole file or folder. As text a fault reads `config.pbtxt:12: what; do`.
    """

    line: int
    what: str
    do: str
    file: str = "config.pbtxt"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}; {self.do}"
