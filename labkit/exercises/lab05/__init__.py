"""Lab 05, Quantization: numbers of few bits, from a range of numbers to a model that the engine runs."""

from labkit.exercises.lab05 import calibration, fp8, gptq, int4, parameters, smooth, training, weights

EXERCISES = (
    *parameters.EXERCISES,
    *calibration.EXERCISES,
    *weights.EXERCISES,
    *int4.EXERCISES,
    *smooth.EXERCISES,
    *gptq.EXERCISES,
    *training.EXERCISES,
    *fp8.EXERCISES,
)
