"""Random texts for the cases of lab 04."""

from __future__ import annotations

import random
from collections.abc import Sequence

WORDS = [
    "the",
    "a",
    "ship",
    "night",
    "river",
    "stone",
    "mountain",
    "council",
    "of",
    "under",
    "slowly",
    "bright",
    "winter",
    "letter",
    "garden",
    "remembers",
    "answered",
    "nothing",
    "extraordinary",
    "whispering",
    "lanterns",
    "and",
    "but",
    "behind",
    "golden",
    "unfathomable",
    "clockwork",
    "seven",
    "harbour",
    "rain",
]


def some_words(draw: random.Random, count: int) -> list[str]:
    """`count` different words."""
    return draw.sample(WORDS, count)


def sentence(draw: random.Random, count: int) -> str:
    """A text of `count` words that begins with a capital and ends with a number."""
    return " ".join([draw.choice(WORDS).capitalize(), *draw.choices(WORDS, k=count - 1), str(draw.randrange(1000))])


def line(words: Sequence[str]) -> str:
    """The words as a line of CSV, which is the form that a client sends."""
    return ",".join(words)
