"""Lab 05, Quantization: stores numbers in few bits, from one scale and zero point to a quantized model that the engine runs."""

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
