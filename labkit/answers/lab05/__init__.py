"""The answers to the exercises of lab 05."""

from labkit.answers.lab05 import calibration, fp8, gptq, int4, parameters, smooth, training, weights

ANSWERS = (
    *calibration.ANSWERS,
    *fp8.ANSWERS,
    *gptq.ANSWERS,
    *int4.ANSWERS,
    *parameters.ANSWERS,
    *smooth.ANSWERS,
    *training.ANSWERS,
    *weights.ANSWERS,
)
"""All answers of the lab."""
