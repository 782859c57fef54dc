"""Makes a model smaller: a model directory becomes another model directory, which the engine runs.

Quantizers of weights: round to nearest, activation-aware scaling (AWQ) and error compensation (GPTQ), each in a file of its
own.
"""

from labkit.compress.calibration import CalibrationText
from labkit.compress.compress import CompressResult, compress
from labkit.compress.method import METHODS, Method, method_named

__all__ = ["METHODS", "CalibrationText", "CompressResult", "Method", "compress", "method_named"]
