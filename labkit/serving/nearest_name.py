"""Suggestions for misspelt names: which known name was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`; None if no name is similar."""
    by_small = {known.lower(): known for known in names}
    found = get_close_matches(name.lower(), by_small, n=1, cutoff=0.6)
    return by_small[found[0]] if found else None


def one_of(name: str, names: Iterable[str]) -> str:
    """Advice about an unknown name: write the nearest known name, or any of the known names if none is similar."""
    names = tuple(names)
    near = nearest(name, names)
    return f"write {near}" if near else f"write one of {', '.join(names) or 'none: there are none'}"
