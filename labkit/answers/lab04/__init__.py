"""The answers to the exercises of lab 04."""

from labkit.answers.lab04 import choosing, config, ensemble, failure, metrics, prompts, streaming, texts_back, together

ANSWERS = (
    *choosing.ANSWERS,
    *config.ANSWERS,
    *ensemble.ANSWERS,
    *failure.ANSWERS,
    *metrics.ANSWERS,
    *prompts.ANSWERS,
    *streaming.ANSWERS,
    *texts_back.ANSWERS,
    *together.ANSWERS,
)
"""All answers of the lab."""
