"""The answers to the exercises of lab 06."""

from labkit.answers.lab06 import accept, distillation, initialisation, mask, recovery, storage, stored_bytes, wanda

ANSWERS = (
    *accept.ANSWERS,
    *distillation.ANSWERS,
    *initialisation.ANSWERS,
    *mask.ANSWERS,
    *recovery.ANSWERS,
    *storage.ANSWERS,
    *stored_bytes.ANSWERS,
    *wanda.ANSWERS,
)
"""All answers of the lab."""
