"""The answers to the exercises of lab 08."""

from labkit.answers.lab08 import choice, cost, latency, link, memory, turning

ANSWERS = (
    *memory.ANSWERS,
    *turning.ANSWERS,
    *link.ANSWERS,
    *latency.ANSWERS,
    *choice.ANSWERS,
    *cost.ANSWERS,
)
"""All answers of the lab."""
