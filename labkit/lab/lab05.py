"""Names that only lab 05 imports: tensors of gptj-tiny, models made by the learner, measurements, and drawings."""

from labkit.exercises.lab05 import fp8_steps, histogram, own_model, qat, tensors, throughput, tradeoff
from labkit.exercises.lab05.gptq import upper_factor
from labkit.exercises.pictures import lab05 as pictures

__all__ = ["fp8_steps", "histogram", "own_model", "pictures", "qat", "tensors", "throughput", "tradeoff", "upper_factor"]
