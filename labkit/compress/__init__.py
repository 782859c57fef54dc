"""Makes a model smaller: a model directory becomes another model directory, which the engine runs.

Quantizers of weights: round to nearest, activation-aware scaling (AWQ), error compensation (GPTQ), training (QAT) and signs,
each in a file of its own; mixed precision, from measured sensitivities. Weights and activations in 8 bits: `rounded_inputs`,
with SmoothQuant and four calibrators. 2:4 sparse weights by magnitude, Wanda or SparseGPT, with channel permutations and a
recovery training: `sparse`; other pruning: `pruning`.
"""

from labkit.compress.calibration import CalibrationText
from labkit.compress.compress import CompressResult, compress
from labkit.compress.method import METHODS, Method, method_named
from labkit.compress.recipe import Recipe
from labkit.compress.recipe_named import RECIPES, recipe_named

__all__ = [
    "METHODS",
    "RECIPES",
    "CalibrationText",
    "CompressResult",
    "Method",
    "Recipe",
    "compress",
    "method_named",
    "recipe_named",
]
