"""What is wrong in a model repository, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Fault:
    """A mistake: the line (from 1; 0 for a fault of a whole folder or file), what was given, and what to do about it.

    As text it is `config.pbtxt:12: what; do`.
    """

    line: int
    what: str
    do: str
    file: str = "config.pbtxt"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}; {self.do}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of the names that was probably meant; None if none is alike."""
    by_small = {known.lower(): known for known in names}
    found = get_close_matches(name.lower(), by_small, n=1, cutoff=0.6)
    return by_small[found[0]] if found else None


def one_of(name: str, names: Iterable[str]) -> str:
    """What to do about a name that is none of these: write the nearest, or one of all."""
    names = tuple(names)
    near = nearest(name, names)
    return f"write {near}" if near else f"write one of {', '.join(names) or 'none: there are none'}"
