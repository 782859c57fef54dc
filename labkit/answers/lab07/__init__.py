"""The answers to the exercises of lab 07."""

from labkit.answers.lab07 import choosing, cutting, fusing, pipelining, wiring

ANSWERS = (
    *choosing.ANSWERS,
    *cutting.ANSWERS,
    *fusing.ANSWERS,
    *pipelining.ANSWERS,
    *wiring.ANSWERS,
)
"""All answers of the lab."""
